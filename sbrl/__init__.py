"""What every role and tool shares. Each package says what it holds and may import; `lint-imports` checks it."""

"""The heads, one per file: what an algorithm learns about each action. Same imports as sbrl.networks."""

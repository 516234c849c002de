"""Benchmarks of every part, and of learning. Their figures are in docs/benchmarks.md and docs/learning.md."""

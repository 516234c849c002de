"""Benchmarks of every part and of learning; their figures are in docs/benchmarks.md."""

"""Aggregates, intervals, power, sequential tests: NumPy and SciPy alone."""

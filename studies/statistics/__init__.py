"""Aggregates, intervals, power, sequential tests. Imports only NumPy and SciPy."""

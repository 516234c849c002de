"""Comparisons over seeds: designs, runner, statistics, verdict, report. Imports sbrl, and starts runs as a user does."""

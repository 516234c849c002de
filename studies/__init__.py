"""Comparisons over seeds: designs, runner, statistics, verdict, report. Imports sbrl; starts runs as a user does."""

"""Whole runs, short ones, as users start them."""

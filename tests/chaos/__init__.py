"""Runs under kills, hangs and cuts, and what is promised of them; `make chaos` takes longer."""

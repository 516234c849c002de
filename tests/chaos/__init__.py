"""Tests of the promises for runs under kills, hangs and cuts. `make chaos` runs them for longer."""

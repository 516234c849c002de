"""Short but whole runs, started as by users."""

"""The program of one replay shard. Imports sbrl alone."""

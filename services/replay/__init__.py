"""The program of one replay shard. Imports only sbrl."""

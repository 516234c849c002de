"""Backups of a run, in folders, buckets and snapshots: `sbrl backup`, `sbrl restore`. May import what is below it."""

"""Backups of a run, in folders and buckets: `sbrl backup`, `sbrl restore`. May import sbrl.replay, .runtime, .storage."""

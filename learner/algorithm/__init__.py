"""The update and its parts: torch, sbrl.config, sbrl.networks and the learner's records; no I/O, threads or RPC."""

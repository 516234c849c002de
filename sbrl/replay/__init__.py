"""Segments and shards: only this package imports Reverb. May import sbrl.config, .envs.spec, .storage, .rpc.ports."""

"""The only door to Reverb and TensorFlow: segments, shards. May import sbrl.config, .envs.spec, .storage, .rpc.ports."""

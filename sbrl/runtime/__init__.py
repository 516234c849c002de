"""How a program starts, drains and ends. May import sbrl.config, .rpc, .telemetry, .storage, and .envs to try one out."""

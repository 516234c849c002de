"""Clients of the coordinator: membership, status, weights, log. Imports sbrl.rpc, .config, .storage, .runtime, .telemetry."""

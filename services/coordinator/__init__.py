"""The coordinator: leases, allowance of steps, weights, episode log, durable store. Imports only sbrl."""

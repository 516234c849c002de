"""Environments, and their spec, which is all that agents know of them. May import sbrl.config and sbrl.telemetry.logs."""

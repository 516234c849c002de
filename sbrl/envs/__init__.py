"""Environments and their spec, which is all that agents know about them. May import sbrl.config and sbrl.telemetry.logs."""

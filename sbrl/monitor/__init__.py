"""The state of a run: status, doctor, top, summary, curves. Imports sbrl.coordination and below, no environment, no network."""

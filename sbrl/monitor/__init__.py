"""How a run stands: status, doctor, top, summary, curves. Imports sbrl.coordination and below, no environment, no network."""

"""Files on disk: checkpoints, the run directory, tables, metadata. May import sbrl.errors, .yaml_text, .v1."""

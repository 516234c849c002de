"""Files that stay: checkpoints, the run directory, tables, metadata. May import sbrl.errors, .yaml_text, .v1."""

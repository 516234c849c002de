"""Studies on Kubernetes: one Job, with one pod per run."""

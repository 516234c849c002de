"""Studies on Kubernetes: one Job, a pod a run."""

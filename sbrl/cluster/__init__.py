"""A release on Kubernetes: the one door to its API, and the tools for a laptop. May import sbrl.monitor and what is below."""

"""A release on Kubernetes: access to its API, and the tools for a laptop. May import sbrl.monitor and below."""

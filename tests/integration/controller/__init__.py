"""The controller against a stand-in for the Kubernetes API."""

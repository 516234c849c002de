"""Scales the actors of a release on Kubernetes. Imports only sbrl."""

"""Scales the actors of a release on Kubernetes. Imports sbrl alone."""

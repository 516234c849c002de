"""Scales actors on Kubernetes, and the tools for a release there. The only package that imports kubernetes."""

"""The Helm chart, rendered: manifests, values, names, network, and the documentation's commands."""

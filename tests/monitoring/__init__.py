"""Metrics, alert rules, dashboards, `sbrl doctor` and `sbrl top`."""

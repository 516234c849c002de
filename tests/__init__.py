"""Tests, one folder per kind, and helpers that several of them share."""

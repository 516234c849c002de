"""Tests of CUDA, for a machine with a GPU."""

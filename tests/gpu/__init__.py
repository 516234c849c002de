"""CUDA: what a machine with a GPU is to run."""

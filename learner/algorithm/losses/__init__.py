"""One file per loss. Imports the same as learner.algorithm."""

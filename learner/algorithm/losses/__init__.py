"""One file a loss. Imports as learner.algorithm."""

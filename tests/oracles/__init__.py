"""Tests of losses, updates and statistics against other people's code (rlax, Dopamine, Acme, rliable, AdaStop)."""

"""Other libraries at the same work: Dopamine, SB3, Tianshou, CleanRL."""

"""Other libraries doing the same work: Dopamine, SB3, Tianshou, CleanRL."""

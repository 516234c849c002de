"""The replay memory on the learner's device. Imports torch, NumPy, the learner's records and pure modules of sbrl.replay."""

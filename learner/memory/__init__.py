"""The replay memory on the learner's device. It imports torch, NumPy, the learner's records and pure modules of sbrl.replay."""

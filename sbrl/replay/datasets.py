"""Reverb's datasets, with all of TensorFlow, kept off the GPU: for remote sampling only.

Otherwise TensorFlow would take all GPU memory at its first operation, and the learner's torch needs it.
"""

from __future__ import annotations

import tensorflow as tf

from sbrl.replay.backend import reverb

tf.config.set_visible_devices([], "GPU")
# These modules were loaded before TensorFlow (see `sbrl.replay.backend`).
reverb.reverb_types.tf = reverb.replay_sample.tf = tf.compat.v1
from reverb.trajectory_dataset import TrajectoryDataset  # noqa: E402

__all__ = ["TrajectoryDataset", "tf"]

"""The one import of Reverb and TensorFlow, made quiet and kept off the GPU.

`import reverb` loads TensorFlow, which would take all GPU memory at its first operation: the learner's torch needs it.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import reverb
import tensorflow as tf
from reverb.cc.checkpointing import checkpoint_pb2

tf.config.set_visible_devices([], "GPU")

__all__ = ["checkpoint_pb2", "reverb", "tf"]

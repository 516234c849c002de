"""The one import of Reverb and TensorFlow, made quiet and kept off the GPU and off proxies.

`import reverb` loads TensorFlow, which would take all GPU memory at its first operation: the learner's torch needs it.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Reverb's own gRPC would look for its shards behind a proxy that the environment names, and no option of its clients says
# otherwise. gRPC alone reads this variable, before the others, and empty it means none: what else uses a proxy keeps it.
os.environ["grpc_proxy"] = ""  # noqa: SIM112  # it is read in small letters only

import reverb
import tensorflow as tf
from reverb.cc.checkpointing import checkpoint_pb2

tf.config.set_visible_devices([], "GPU")

__all__ = ["checkpoint_pb2", "reverb", "tf"]

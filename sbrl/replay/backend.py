"""The only import of Reverb. It loads just the parts of Reverb and TensorFlow that segments need.

These are the parts for tables, writers and samplers. `import reverb` runs TensorFlow's own __init__. This costs 2.5 s of a core
and 200 MB in each process that talks to a shard, for datasets that only remote sampling uses (`sbrl.replay.datasets`). Reverb's
native code needs TensorFlow's libraries, and its Python code needs a few of TensorFlow's modules. So this module imports single
modules of both packages and skips their __init__. These modules are the real ones, and `import tensorflow` elsewhere in the
process still loads all of TensorFlow.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Reverb's own gRPC would connect to shards through a proxy that the environment names, and its clients have no option against
# it. Only gRPC reads this variable, before the others, and an empty value means no proxy. Other code keeps its proxy.
os.environ["grpc_proxy"] = ""  # noqa: SIM112  # gRPC reads it in lower case only


def _package(name: str) -> ModuleType:
    """An installed package whose __init__ has not run, but whose modules can be imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    return package


@contextmanager
def _bare_tensorflow() -> Iterator[None]:
    """In this context `import tensorflow` runs nothing. Afterwards it loads all of TensorFlow again."""
    if "tensorflow" in sys.modules:
        yield
        return
    compat: Any = ModuleType("tensorflow.compat")
    compat.v1 = ModuleType("tensorflow.compat.v1")
    tensorflow: Any = _package("tensorflow")
    tensorflow.__version__ = "as pip says"  # Reverb prints it if its libraries do not fit
    bare = {"tensorflow": tensorflow, "tensorflow.compat": compat, "tensorflow.compat.v1": compat.v1}
    sys.modules.update(bare)
    try:
        importlib.import_module("tensorflow.python.pywrap_tensorflow")  # the libraries that Reverb's is linked with
        # Modules of Reverb use these in annotations. Only its datasets call anything of tensorflow.compat.v1.
        compat.v1.Tensor = object
        compat.v1.TensorSpec = importlib.import_module("tensorflow.python.framework.tensor_spec").TensorSpec
        yield
    finally:
        for name in bare:
            del sys.modules[name]


def _load() -> Any:
    if "reverb" in sys.modules:
        return sys.modules["reverb"]
    reverb: Any = _package("reverb")
    sys.modules["reverb"] = reverb
    with _bare_tensorflow():
        for name in ("client", "server", "errors", "rate_limiters", "item_selectors", "platform.checkpointers_lib"):
            importlib.import_module(f"reverb.{name}")
        checkpoint = importlib.import_module("reverb.cc.checkpointing.checkpoint_pb2")
    reverb.Client, reverb.Server, reverb.Table = reverb.client.Client, reverb.server.Server, reverb.server.Table
    reverb.selectors, reverb.checkpoint_pb2 = reverb.item_selectors, checkpoint
    return reverb


reverb = _load()
checkpoint_pb2 = reverb.checkpoint_pb2
TensorSpec = reverb.server.tensor_spec.TensorSpec

__all__ = ["TensorSpec", "checkpoint_pb2", "reverb"]

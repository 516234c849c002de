"""The one import of Reverb: of it and of TensorFlow only what tables, writers and samplers of segments take.

`import reverb` runs TensorFlow's own __init__: 2.5 s of a core and 200 MB in each process that speaks to a shard, for datasets
that only remote sampling uses (`sbrl.replay.datasets`). Reverb's native code wants TensorFlow's libraries, and its Python a few
of TensorFlow's modules: so both packages are entered here by their modules, without their __init__. What is loaded is the real
thing, and `import tensorflow` elsewhere in the process still loads all of it.
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
# Reverb's own gRPC would look for its shards behind a proxy that the environment names, and no option of its clients says
# otherwise. gRPC alone reads this variable, before the others, and empty it means none: what else uses a proxy keeps it.
os.environ["grpc_proxy"] = ""  # noqa: SIM112  # it is read in small letters only


def _package(name: str) -> ModuleType:
    """An installed package whose modules can be imported, and whose __init__ has not run."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    return package


@contextmanager
def _bare_tensorflow() -> Iterator[None]:
    """While it lasts, `import tensorflow` runs nothing; then it means the whole again."""
    if "tensorflow" in sys.modules:
        yield
        return
    compat: Any = ModuleType("tensorflow.compat")
    compat.v1 = ModuleType("tensorflow.compat.v1")
    tensorflow: Any = _package("tensorflow")
    tensorflow.__version__ = "as pip says"  # Reverb tells it where its libraries do not fit
    bare = {"tensorflow": tensorflow, "tensorflow.compat": compat, "tensorflow.compat.v1": compat.v1}
    sys.modules.update(bare)
    try:
        importlib.import_module("tensorflow.python.pywrap_tensorflow")  # the libraries that Reverb's is linked with
        # What modules of Reverb name in annotations. Nothing of tensorflow.compat.v1 is called outside of datasets.
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

"""A stand-in for a CUDA graph on a CPU: it repeats the operations of one call on exactly the same tensors.

A tape has the limits of a graph: Python numbers stay as they were, counters on the host do not advance, and a name that is
bound to another tensor still means the old one. Random numbers are drawn again, as in a graph. A tape keeps only tensors that
its own operations made. An outside tensor that nobody else keeps is gone by the next replay, like its memory on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Output = TypeVar("Output")


class _Operation(NamedTuple):
    function: Callable[..., Any]
    arguments: tuple[Any, ...]  # outside tensors as weak references
    named: Mapping[str, Any]
    outputs: list[Tensor]


class Tape(TorchDispatchMode):
    """Records the operations within its context."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[_Operation] = []
        self._made: set[int] = set()  # ids of tensors on the tape, which keeps them

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number is read back to the host: a graph cannot capture that")
        outputs = function(*args, **(kwargs or {}))
        arguments, named = tree_map(self._weak, (args, kwargs or {}))
        made = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        self._operations.append(_Operation(function, arguments, named, made))
        self._made.update(map(id, made))
        return outputs

    def replay(self) -> None:
        """Repeats the operations. Raises RuntimeError if a tensor that was read is gone."""
        with torch.no_grad():
            for function, arguments, named, outputs in self._operations:
                arguments, named = tree_map(_strong, (arguments, named))
                again = [leaf for leaf in tree_leaves(function(*arguments, **named)) if isinstance(leaf, Tensor)]
                for old, new in zip(outputs, again, strict=True):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():  # else a view, or in place
                        old.copy_(new)

    def _weak(self, leaf: object) -> object:
        return weakref.ref(leaf) if isinstance(leaf, Tensor) and id(leaf) not in self._made else leaf


def _strong(leaf: object) -> object:
    if isinstance(leaf, weakref.ref):
        leaf = leaf()
        if leaf is None:
            raise RuntimeError("a tensor that the tape reads is gone: a graph would read freed memory")
    return leaf


class Taped(Generic[Output]):
    """A function without arguments that is recorded at its first call, and replayed from then on."""

    def __init__(self, function: Callable[[], Output]) -> None:
        self._function = function
        self._tape: Tape | None = None
        self._output: Output

    def __call__(self) -> Output:
        if self._tape is None:
            with Tape() as self._tape:
                self._output = self._function()
        else:
            self._tape.replay()
        return self._output

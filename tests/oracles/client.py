"""The tests' side of the oracle process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tests.oracles import wire

TOLERANCE = 1e-9  # if everything is float64; the promise is 1e-6


class Oracle:
    """Asks for reference values. One process serves all tests, because JAX takes seconds to start and to warm up."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, errors: Path) -> None:
        self._requests, self._answers = requests, answers  # the process's input and output
        self._errors = errors  # the process's error output
        self.deviations: dict[tuple[str, str], float] = {}  # (ours, reference) -> the largest seen

    def ask(self, function: str, **arguments: Any) -> wire.Arrays:
        """The result of `function` of tests.oracles.reference_* for named arrays, tensors, numbers and strings."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            wire.send(self._requests, {"function": function, **{name: _array(value) for name, value in arguments.items()}})
        answer = wire.receive(self._answers)
        if answer is None:
            raise RuntimeError(f"the oracle process ended: {self._errors.read_text(encoding='utf-8')}")
        if "error" in answer:
            raise RuntimeError(f"the oracle process failed in {function}:\n{answer['error']}")
        return answer

    def compare(self, ours: str, theirs: str, found: Any, expected: ArrayLike, tolerance: float = TOLERANCE) -> None:
        """Asserts |found - expected| <= tolerance * max(1, |expected|) for each entry, and notes the largest deviation.

        Args:
            ours, theirs: names of the compared values, for the summary.
        """
        found, expected = _array(found), np.asarray(expected)
        assert found.shape == expected.shape
        assert np.isfinite(expected).all()
        deviation = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        worst = np.unravel_index(deviation.argmax(), deviation.shape)
        assert deviation[worst] <= tolerance, f"{ours} at {worst}: {found[worst]!r}, {theirs}: {expected[worst]!r}"
        self.deviations[ours, theirs] = max(self.deviations.get((ours, theirs), 0.0), float(deviation[worst]))


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return np.asarray(value)

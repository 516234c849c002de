"""Types of command-line arguments: numbers of a range, refused by argparse in one line that names it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole_number(least: int, below: int) -> Callable[[str], int]:
    """Reads whole numbers from `least` to `below` - 1. The reader raises argparse.ArgumentTypeError for anything else."""

    def read(text: str) -> int:
        # Long before Python's own limit on digits, which raises another error.
        if not text.isdecimal() or len(text) > 20 or not least <= int(text) < below:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {least} to {below - 1}")
        return int(text)

    return read


def number(above: float = -math.inf, *, least: float = -math.inf) -> Callable[[str], float]:
    """Reads finite numbers, above one or from one on. The reader raises argparse.ArgumentTypeError for anything else."""
    rule = f"from {least:g} on" if least > -math.inf else f"above {above:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > above and value >= least):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number {rule}")
        return value

    return read


port = whole_number(0, 65_536)
seed = whole_number(0, 2**31)  # 31 bits, the most ALE takes

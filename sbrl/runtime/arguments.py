"""Command lines: a parser that suggests what was meant, and readers that refuse numbers out of range."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from sbrl.errors import nearest, plain, shown


class Parser(argparse.ArgumentParser):
    """Reports errors in one line. For an unknown command or option it names the nearest one."""

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Ends the program with exit code 2 because of words that no argument takes."""
        known = list(self._options())
        hints = [nearest(word.partition("=")[0], known) if word.startswith("-") else "" for word in words]
        self.error(f"unrecognized arguments: {' '.join(words)}{next(filter(None, hints), '')}")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As in argparse, with another error message."""
        arguments, rest = self.parse_known_args(args, namespace)
        if rest:
            self.refuse_unknown(rest)
        return arguments

    def error(self, message: str) -> NoReturn:
        """Prints one line; argparse would also print the usage of the whole program."""
        self.exit(2, f"{self.prog}: error: {message}; `{self.prog} --help` says what there is\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            hint = nearest(value, known) or f"; there are {', '.join(known)}"
            raise argparse.ArgumentError(None, f"unknown {str(action.metavar).lower()} {shown(value)}{hint}")

    def _options(self) -> Iterator[str]:
        """The options of this parser and of its commands."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._options() if isinstance(parser, Parser) else ()


def whole_number(least: int, below: int) -> Callable[[str], int]:
    """Reads whole numbers from `least` to `below` - 1. The reader raises argparse.ArgumentTypeError for anything else."""

    def read(text: str) -> int:
        # This limit is far below Python's own limit on digits, which raises another error.
        if not text.isdecimal() or len(text) > 20 or not least <= int(text) < below:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {least} to {below - 1}")
        return int(text)

    return read


def number(above: float = -math.inf, *, least: float = -math.inf) -> Callable[[str], float]:
    """Reads finite numbers above `above` and from `least` on. The reader raises argparse.ArgumentTypeError otherwise."""
    rule = f"from {plain(least)} on" if least > -math.inf else f"above {plain(above)}"

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

"""Feeds wrong inputs to every reader and service: `python -m tests.fuzz --inputs 10000`.

Hypothesis draws the inputs. With the same versions of all packages they depend only on --seed. An input that crashes a reader
is minimized and written to --out together with the error; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sbrl.errors import UsageError
from sbrl.monitor.readable import duration
from sbrl.runtime.arguments import seed, whole_number
from sbrl.runtime.program import run_program
from tests.fuzz.readers import readers
from tests.fuzz.receipts import receipt_readers
from tests.fuzz.services import services
from tests.fuzz.shards import shard_readers
from tests.fuzz.target import Report, run_target

HANG_SECONDS = 10
LINE_SECONDS = 10.0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=whole_number(1, 2**31), default=10_000, help="for each reader and service (10,000)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--only", default="", metavar="TEXT", help="readers and services whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="where inputs that brought one down go")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR, handlers=[logging.NullHandler()])
    signal.signal(signal.SIGALRM, _hangs)
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="sbrl-fuzz-") as folder:
        for target in (one for kind in (readers, shard_readers, receipt_readers, services) for one in kind(Path(folder))):
            if arguments.only in target.name:
                progress = _Progress(target.name, arguments.inputs)
                reports.append(run_target(target, arguments.inputs, arguments.seed, _limit, progress))
                _keep(reports[-1], arguments.out)
    if not reports:
        raise UsageError(f"--only {arguments.only}: no reader or service has this in its name")
    print(table(reports), flush=True)
    return int(any(report.failure for report in reports))


def table(reports: Sequence[Report]) -> str:
    """Markdown."""
    lines = ["| what reads | inputs, no two alike | accepted | refused | slowest | |", "|---|---|---|---|---|---|"]
    for one in reports:
        slowest = f"{one.slowest_seconds * 1000:.0f} ms"
        cells = [
            one.name,
            f"{one.inputs:,}",
            f"{one.accepted:,}",
            f"{one.refused:,}",
            slowest,
            "FAILS" if one.failure else "holds",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class _Progress:
    """Prints a line now and then."""

    def __init__(self, name: str, inputs: int) -> None:
        self._name, self._inputs = name, inputs
        self._start = self._last = time.monotonic()
        print(f"{name}: {inputs:,} inputs", flush=True)

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            left = (now - self._start) / done * (self._inputs - done)
            print(f"{self._name}: {done:,} done, ETA {duration(left)}", flush=True)


def _keep(report: Report, out: Path) -> None:
    if report.failure is not None:
        path = out / report.name.replace(" ", "-").replace(",", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(report.failure.data)
        print(f"{report.name} (the input is kept in {path}):\n{report.failure.what}", flush=True)


@contextmanager
def _limit() -> Iterator[None]:
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _hangs(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no answer within {HANG_SECONDS} s")


if __name__ == "__main__":
    run_program(main)

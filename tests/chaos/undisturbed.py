"""Measures the judge's statistical lines: false alarms on a run without faults, and power against changes.

    python -m tests.chaos.undisturbed --pairs 20

Trains the marked environment as `make chaos` does, but without faults. For each pair, it compares 20 readings of the loss with
the next 20, and 100 episodes with the next 100. A pair that fails is a false alarm. Then the second half of each pair is
changed by a known factor: the share of failing pairs is the line's power against that change. Tables go to --out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sbrl.errors import RunError
from sbrl.monitor.readable import duration
from sbrl.runtime.arguments import seed, whole_number
from sbrl.runtime.program import run_program
from sbrl.v1.episodes_pb2 import Episode
from tests.chaos.judge import LOSS_READINGS, RECENT, Earned, Verdict, compare_loss, compare_returns, readings
from tests.chaos.session import LEARNED_STEPS, Session
from tests.chaos.watch import LOOK_SECONDS

LOSS_FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
RETURN_FACTORS = (1.0, 0.97, 0.95, 0.9, 0.75, 0.5)
SAY_SECONDS = 30.0
SECONDS_PER_PAIR = 600.0  # a slow machine's: 40 readings take 40 s

T = TypeVar("T")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.undisturbed", description=__doc__)
    parser.add_argument("--pairs", type=whole_number(1, 1000), default=20, help="of each statistical line (20)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--out", type=Path, help="default: runs/undisturbed-<time>")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out or Path("runs") / f"undisturbed-{time.strftime('%Y%m%d-%H%M%S')}"
    session = Session(out, arguments.seed, 2, 1)
    try:
        session.start()
        losses, episodes = _collect(session, arguments.pairs)
    finally:
        session.close()
    report = "\n\n".join(
        [
            power_table("loss", "multiplied by", pairs(losses, LOSS_READINGS, arguments.pairs), LOSS_FACTORS, _loss_after),
            power_table("return", "multiplied by", pairs(episodes, RECENT, arguments.pairs), RETURN_FACTORS, _return_after),
        ]
    )
    (out / "power.md").write_text(report + "\n", encoding="utf-8")
    print(f"\n{report}\n\nwritten to {out}", flush=True)
    return 0


def pairs(values: Sequence[T], size: int, number: int) -> list[tuple[Sequence[T], Sequence[T]]]:
    """The last `number` neighbours of `size` values each, none of which share a value."""
    last = values[len(values) - 2 * size * number :]
    return [(last[k : k + size], last[k + size : k + 2 * size]) for k in range(0, len(last), 2 * size)]


def power_table(
    line: str,
    change: str,
    of: Sequence[tuple[Sequence[T], Sequence[T]]],
    factors: Sequence[float],
    verdict: Callable[[Sequence[T], Sequence[T], float], Verdict],
) -> str:
    """Markdown table: for each factor, the number of pairs that fail. A factor of 1 gives the false alarms."""
    lines = [f"| {line} after, {change} | pairs that fail, of {len(of)} |", "|---|---|"]
    for factor in factors:
        failed = sum(not verdict(before, after, factor).is_good for before, after in of)
        lines.append(f"| {factor:g} | {failed} |")
    return "\n".join(lines)


def _loss_after(before: Sequence[float], after: Sequence[float], factor: float) -> Verdict:
    return compare_loss(before, [factor * loss for loss in after])


def _return_after(before: Sequence[Episode], after: Sequence[Episode], factor: float) -> Verdict:
    changed = [Episode(length=one.length, episode_return=factor * one.episode_return) for one in after]
    return compare_returns(Earned.of(before), Earned.of(changed))


def _collect(session: Session, number: int) -> tuple[list[float], list[Episode]]:
    """Waits until a run has learned, and has readings and episodes for this many pairs.

    Raises:
        RunError: the run has ended, or takes too long.
    """
    start = said = time.monotonic()
    first: float | None = None  # when it had learned
    while True:
        samples = session.watch.samples
        if first is None and samples and samples[-1].run.env_steps >= LEARNED_STEPS:
            first = samples[-1].time
        losses = [] if first is None else readings(one.loss for one in samples if one.time >= first)
        episodes = [] if first is None else session.episodes(2 * RECENT * number)
        done = min(len(losses) / (2 * LOSS_READINGS * number), len(episodes) / (2 * RECENT * number))
        if done >= 1:
            return losses, episodes
        elapsed = time.monotonic() - start
        if not session.run.is_running or elapsed > SECONDS_PER_PAIR * number:
            raise RunError(f"{done:.0%} of {number} pairs after {duration(elapsed)}:\n{session.run.text()[-3000:]}")
        if time.monotonic() - said >= SAY_SECONDS:
            said = time.monotonic()
            eta = duration(elapsed * (1 - done) / done) if done else "not known yet"
            print(f"{time.strftime('%H:%M:%S')} {done:.0%}, {duration(elapsed)} so far, ETA {eta}", flush=True)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    run_program(main)

"""Compares the promises for a run under faults with the observations, and reports the verdicts.

Exact lines are about counts, which hold at every look or not. Statistical lines, about loss and returns, are one-sided, and
exist only where they have power.
"""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sbrl.config import SEGMENT_STEPS, Config
from sbrl.coordination.fleet import RunState
from sbrl.replay.shard import QUEUE_SEGMENTS
from sbrl.v1.episodes_pb2 import Episode
from tests.chaos.faults import STOP_SECONDS, Outcome
from tests.chaos.session import Ending, Resumption, Session
from tests.chaos.watch import Sample
from tests.chaos.windows import Findings

UPDATE_SECONDS = 5.0  # median time to the first update of a learner that is back
# Members report at different times. So an actor's steps may be known before or after their receipt, by at most the steps of
# this time. A coordinator that was away has heard of everything after this many looks.
APART_SECONDS, APART_LOOKS = 3.0, 12
# In the worst case: segments of an environment that are unconfirmed or being made; and segments that a shard, its reader and
# the learner hold together.
STREAM_SEGMENTS, SHARD_SEGMENTS = 4, QUEUE_SEGMENTS + 5
ENDING = (RunState.COLLECTED, RunState.FINISHED)
EXACT = 1e-6  # tolerance for sums of products of whole numbers and ratios
# Readings of an undisturbed run fail at most once in 20,000 times. A loss that is five times as large is found in 5 of 6 cases
# with 15 readings on either side and in 39 of 40 with 20; one that is ten times as large always (test_judge.py).
LOSS_READINGS, LEAST_LOSS_READINGS = 20, 15
LOSS_FACTOR, LOSS_ERRORS = 1.5, 5.0  # allowed growth: this factor, or this many standard errors of its logarithm if larger
# Rewards per step count as equal if they are lower by at most this fraction, or by this many standard errors if that is more.
# By chance this fails once in 30,000 times. A random agent loses half a reward per step.
RETURN_TOLERANCE, RETURN_ERRORS = 0.05, 4.0
RECENT = 100  # episodes in the coordinator's status
# Counters that can never fall, whoever is killed. (The learner's can: a killed learner goes back to its checkpoint.)
GROWING = ("actor.env_steps", "actor.episodes", "evaluator.evaluations")


class Verdict(NamedTuple):
    """The result of one check."""

    check: str
    found: str
    is_good: bool


def judge(session: Session, ending: Ending) -> list[Verdict]:
    """All exact checks. They do not depend on the machine's other load."""
    samples, config = session.watch.samples, session.config
    return [
        judge_flight(samples, config),
        *judge_ratio(samples, config),
        *judge_end(ending, config),
        *(judge_windows(number, one) for number, one in enumerate(session.findings, 1)),
        judge_growth(samples),
        *map(judge_resumption, session.resumptions),
    ]


def judge_course(
    session: Session, outcomes: Sequence[Outcome], episodes: Sequence[Episode], twin: Sequence[Episode]
) -> list[Verdict]:
    """Times and statistics. Args: episodes, twin: the last training episodes of the run, and of one without faults."""
    return [
        *judge_stops(outcomes),
        *itertools.chain.from_iterable(judge_loss(one, session.watch.samples) for one in session.resumptions),
        *judge_returns_go_on(session.resumptions, episodes),
        judge_return(episodes, twin),
    ]


def judge_flight(samples: Sequence[Sample], config: Config) -> Verdict:
    """At every look: only collected steps were received, and the number of steps in flight is bounded.

    A learner that goes back to its checkpoint receives the forgotten steps a second time. These are not in flight, so the check
    uses the most steps that were ever received or lost.
    """
    collected = [one.run.env_steps for one in samples]
    known = [one.run.received + one.run.lost for one in samples]
    cut = samples[-1].run.env_steps - known[-1] - samples[-1].run.in_flight
    apart = _most_in(samples, APART_SECONDS)
    later = [max(collected[k : k + APART_LOOKS]) for k in range(len(samples))]
    over = max(now - (then - cut) for now, then in zip(known, later, strict=True))
    flight = _flight(samples)
    streams = (config.actors.num_actors or 1) * config.actors.envs_per_actor * STREAM_SEGMENTS
    # Twice, because a killed actor leaves as many as its successor may have.
    bound = SEGMENT_STEPS * (2 * streams + config.replay.num_shards * SHARD_SEGMENTS)
    return Verdict(
        f"env_steps = received + lost + in flight, in flight at least 0 and at most {bound:,}, at every look",
        f"{min(one.run.in_flight for one in samples):,} to {max(flight):,} in {len(samples):,} looks; members' counts may be "
        f"{apart:,} steps apart",
        over <= apart and max(flight) <= bound + apart,
    )


def _flight(samples: Sequence[Sample]) -> list[int]:
    """At each look: the steps collected minus the most steps received or lost until then."""
    known = itertools.accumulate((one.run.received + one.run.lost for one in samples), max)
    return [one.run.env_steps - most for one, most in zip(samples, known, strict=True)]


def _most_in(samples: Sequence[Sample], seconds: float) -> int:
    """The most steps that became known within `seconds`."""
    most, first = 0, 0
    for last, one in enumerate(samples):
        while one.time - samples[first + 1].time > seconds and first + 1 < last:
            first += 1
        if one.time - samples[first].time <= 2 * seconds:
            most = max(most, one.run.env_steps - samples[first].run.env_steps)
    return most


def judge_ratio(samples: Sequence[Sample], config: Config) -> Iterable[Verdict]:
    """At every look: the learner is not ahead of the ratio, and not further behind than allowed."""
    ratio = config.samples_per_insert
    off = [one.run.samples_due - ratio * max(0, one.run.received - config.min_replay_size) for one in samples]
    yield Verdict(
        "samples due = samples per insert x transitions received after warm-up, at every look",
        f"off by {max(map(abs, off)):g} at most",
        max(map(abs, off)) <= EXACT,
    )
    # The last update of a run may pass the target by at most half a batch.
    half = config.learner.batch_size / 2
    ahead = min(one.run.samples_due - one.run.samples_trained + (half if one.run.state in ENDING else 0.0) for one in samples)
    # A killed learner must train unsaved updates again. The logs may also bring steps that nobody had received.
    trained = itertools.accumulate((one.run.samples_trained for one in samples), max)
    behind = [one.run.samples_due - most for one, most in zip(samples, trained, strict=True)]
    bound = ratio * (config.receive_ahead + SEGMENT_STEPS)
    logged = ratio * (max(_flight(samples)) + _most_in(samples, APART_SECONDS) + max(one.run.lost for one in samples))
    learners = [one.learner for one in samples if one.learner]
    first = [lag for one, lag in zip(samples, behind, strict=True) if one.learner == learners[0]]
    yield Verdict(
        f"samples trained are never above those due, nor more than {bound:g} below, and after a learner's end what logs bring",
        f"{ahead:,.0f} to {max(first):,.0f} below; {max(behind):,.0f} of {bound + logged:,.0f} after a learner's end",
        ahead >= 0 and max(first) <= bound and max(behind) <= bound + logged,
    )


def judge_end(ending: Ending, config: Config) -> Iterable[Verdict]:
    """At the end, sums are exact: nothing is in flight, nothing was counted twice, the ratio holds to half a batch."""
    summary = ending.summary
    steps, received, lost, flight = (
        summary[name] for name in ("env_steps", "transitions_received", "transitions_lost", "transitions_in_flight")
    )
    yield Verdict(
        "at the end: env_steps = received + lost, nothing is in flight",
        f"{steps:,} = {received:,} + {lost:,}, {flight} in flight; {summary['transitions_duplicate']:,} came again",
        flight == 0 and steps == received + lost + summary["train_episodes_cut"],
    )
    yield Verdict(
        "at the end: the learner knows all that the shards' logs hold",
        f"{ending.unknown_steps:,} steps were new to it",
        ending.unknown_steps == 0,
    )
    due, trained, half = summary["samples_due"], summary["samples_trained"], config.learner.batch_size / 2
    yield Verdict(
        "at the end: samples trained = samples due to half a batch",
        f"{trained:,} of {due:,.0f}: {summary['samples_per_insert_achieved']:.4f} of {config.samples_per_insert:g}",
        abs(due - trained) <= half,
    )


def judge_windows(number: int, findings: Findings) -> Verdict:
    found = f"{findings.transitions:,} transitions of {findings.episodes:,} episodes of {findings.incarnations} incarnations"
    return Verdict(
        f"no window crosses a reset, no transition is there twice (reading {number} of the logs)",
        "; ".join([f"{found}, {findings.cut_short} cut short", *findings.problems]),
        findings.transitions > 0 and not findings.problems,
    )


def judge_growth(samples: Sequence[Sample]) -> Verdict:
    """Counters never fall."""
    falls = [
        f"{name} from {earlier.totals[name]:,.0f} to {later.totals.get(name, 0.0):,.0f}"
        for earlier, later in itertools.pairwise(samples)
        for name in GROWING
        if later.totals.get(name, 0.0) < earlier.totals.get(name, 0.0)
    ]
    return Verdict("no counter falls", "; ".join(falls) or f"{len(samples):,} looks", not falls)


def judge_resumption(one: Resumption) -> Verdict:
    """The run resumes from its saved state: the learner's newest checkpoint, and all of the coordinator's counts."""
    steps, steps_after = (int(status.totals["actor.env_steps"]) for status in (one.before, one.after))
    loses_nothing = one.stopped is None or (
        one.stopped["updates"] == one.saved_updates and one.stopped["env_steps"] == steps_after
    )
    return Verdict(
        "kill -9 of everything and --resume goes on from each role's newest checkpoint"
        if one.stopped is None
        else "Ctrl-C and --resume goes on from where it stopped",
        f"updates {one.before.progress.updates:,} -> {one.from_updates:,}, of which {one.saved_updates:,} were saved; "
        f"env_steps {steps:,} -> {steps_after:,}",
        0 < one.from_updates == one.saved_updates and steps_after >= steps and loses_nothing,
    )


def judge_stops(outcomes: Sequence[Outcome]) -> Iterable[Verdict]:
    """One verdict for each kind of fault, and one for killed learners.

    A run has not stopped if one side works: a killed learner first repeats its unsaved updates, and meanwhile the ratio holds
    the actors back. The table of faults has the waits of each side.
    """
    for kind, group in itertools.groupby(sorted(outcomes, key=lambda one: one.kind), key=lambda one: one.kind):
        stops = sorted(one.stop for one in group)
        yield Verdict(
            f"after {kind} the run never stops for more than {STOP_SECONDS:.0f} s",
            f"{len(stops)} times, longest time without a step or an update: median {statistics.median(stops):.1f} s, "
            f"most {stops[-1]:.1f} s",
            stops[-1] <= STOP_SECONDS,
        )
    learners = [one.until_updates for one in outcomes if (one.kind, one.victim) == ("kill -9", "learner")]
    if learners:
        middle = statistics.median(learners)
        yield Verdict(
            f"a killed learner that is back makes its first update within {UPDATE_SECONDS:.0f} s in the median",
            f"median {middle:.1f} s, most {max(learners):.1f} s of {len(learners)}",
            middle <= UPDATE_SECONDS,
        )


def judge_loss(one: Resumption, samples: Sequence[Sample]) -> Iterable[Verdict]:
    """Compares the readings before and after a stop. No verdict if there are too few readings to show a change."""
    before = readings(look.loss for look in samples if look.time < one.ended)[-LOSS_READINGS:]
    after = readings(look.loss for look in samples if look.time >= one.began)[:LOSS_READINGS]
    if min(len(before), len(after)) >= LEAST_LOSS_READINGS:
        yield compare_loss(before, after)


def compare_loss(before: Sequence[float], after: Sequence[float]) -> Verdict:
    """The geometric mean of the readings after a stop is not above that of the readings before.

    A reading is the loss of one batch. Most batches are well predicted; some have an unpredictable outcome and four times the
    loss. Logarithms have the same spread at any size of the loss. A loss that falls is not a failure.
    """
    logs = [np.log(losses) for losses in (before, after)]
    variance = sum(((of - of.mean()) ** 2).sum() for of in logs) / (len(before) + len(after) - 2)
    error = math.sqrt(variance * (1 / len(before) + 1 / len(after)))
    factor = math.exp(max(math.log(LOSS_FACTOR), LOSS_ERRORS * error))
    means = [float(np.exp(of.mean())) for of in logs]
    return Verdict(
        "the loss is not above what it was",
        f"{means[0]:.3f} in {len(before)} readings before, {means[1]:.3f} in {len(after)} after (at most {factor:.1f} times)",
        means[1] <= factor * means[0],
    )


def readings(losses: Iterable[float | None]) -> list[float]:
    """Each reading once: the learner reads its loss once a second, and samples are taken twice a second."""
    return [loss for loss, _ in itertools.groupby(losses) if loss]


class Earned(NamedTuple):
    """Rewards per step of some episodes. They measure skill; a return depends mostly on the random length of an episode."""

    episodes: int
    per_step: float
    error: float  # standard

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Earned:
        returns = np.array([one.episode_return for one in episodes])
        lengths = np.array([float(one.length) for one in episodes])
        per_step = returns.sum() / lengths.sum()
        spread = (returns - per_step * lengths).std(ddof=1) / lengths.mean()
        return cls(len(episodes), float(per_step), float(spread / len(episodes) ** 0.5))

    def __str__(self) -> str:
        return f"{self.per_step:.3f} over {self.episodes} episodes"

    def margin(self, other: Earned) -> float:
        """How much lower the other's rewards per step may be and still count as equal."""
        return max(RETURN_TOLERANCE * self.per_step, RETURN_ERRORS * math.hypot(self.error, other.error))


def judge_return(episodes: Sequence[Episode], twin: Sequence[Episode]) -> Verdict:
    mean, wanted = Earned.of(episodes), Earned.of(twin)
    margin = wanted.margin(mean)
    return Verdict(
        "the final return is like an undisturbed twin's",
        f"rewards per step: {mean}, the twin's {wanted} (margin {margin:.3f})",
        mean.per_step >= wanted.per_step - margin,
    )


def judge_returns_go_on(resumptions: Sequence[Resumption], last: Sequence[Episode]) -> Iterable[Verdict]:
    """Compares the last hundred episodes before each stop with those before the next one."""
    recent = [list(one.before.recent_episodes) for one in resumptions] + [list(last[-RECENT:])]
    yield from itertools.starmap(compare_returns, itertools.pairwise(map(Earned.of, recent)))


def compare_returns(before: Earned, after: Earned) -> Verdict:
    margin = before.margin(after)
    return Verdict(
        "the return goes on where it was",
        f"rewards per step: {before} before, {after} after (margin {margin:.3f})",
        after.per_step >= before.per_step - margin,
    )


def fault_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown table: for each kind of fault and role, the time until the run continued."""
    lines = [
        "| fault | role | times | it lasted, median | longest stall meanwhile | steps again after, median / most |"
        " updates again after, median / most | longest stall after, median / most | longest stop after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ordered = sorted(outcomes, key=lambda one: (one.kind, one.victim))
    for (kind, victim), group in itertools.groupby(ordered, key=lambda one: (one.kind, one.victim)):
        of = list(group)
        cells = [
            *(kind, victim, str(len(of)), f"{statistics.median(one.lasted for one in of):.1f} s"),
            f"{max(one.stall_during for one in of):.1f} s",
            *(_middle_and_most([getattr(one, name) for one in of]) for name in ("until_steps", "until_updates", "stall")),
            f"{max(one.stop for one in of):.1f} s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict_table(verdicts: Iterable[Verdict]) -> str:
    lines = ["| check | found | |", "|---|---|---|"]
    lines += [f"| {one.check} | {one.found} | {'holds' if one.is_good else 'FAILS'} |" for one in verdicts]
    return "\n".join(lines)


def write_csv(path: Path, rows: Sequence[NamedTuple]) -> None:
    """A row for each record; the columns are its fields."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields if rows else ())
        writer.writerows([f"{value:.3f}" if isinstance(value, float) else value for value in row] for row in rows)


def _middle_and_most(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} / {max(values):.1f} s"

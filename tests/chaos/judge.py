"""What a run under faults is promised to hold, against what was seen of it; and how that is reported."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sbrl.config import Config
from sbrl.v1.fleet_pb2 import Episode, Generation
from tests.chaos.faults import STOP_SECONDS, Outcome
from tests.chaos.session import Resumption, Session
from tests.chaos.watch import Sample
from tests.chaos.windows import Findings

RATIO_TOLERANCE = 0.01
# Readings of an undisturbed run fail once in 20,000 times or less; five times the loss is found in 5 of 6 cases with 15
# readings on either side and in 39 of 40 with 20, ten times the loss in all (test_judge.py).
LOSS_READINGS, LEAST_LOSS_READINGS = 20, 15
LOSS_FACTOR, LOSS_ERRORS = 1.5, 5.0  # what it may grow to, or so many standard errors of its logarithm if that is more
# Rewards per step are the same if they are less by no more than this part, or this many standard errors if that is more: once
# in 30,000 times they are not, by chance. Who acts at random loses half a reward a step.
RETURN_TOLERANCE, RETURN_ERRORS = 0.05, 4.0
RECENT = 100  # episodes that the coordinator's status has
# What can never fall while a run goes on. (What the network was trained on can: a killed learner goes back to its checkpoint.)
GROWING = (
    *("actor.env_steps", "actor.episodes", "actor.transitions_collected", "replay.transitions_inserted"),
    *("learner.samples_served", "evaluator.evaluations"),
)


class Verdict(NamedTuple):
    """One thing that was checked."""

    check: str
    found: str
    is_good: bool


def judge(
    session: Session,
    outcomes: Sequence[Outcome],
    summary: Mapping[str, Any],
    episodes: Sequence[Episode],
    twin: Sequence[Episode],
) -> list[Verdict]:
    """Args: episodes, twin: the last ones of training of the run, and of one without faults."""
    totals = session.watch.samples[-1].totals
    return [
        *judge_stops(outcomes),
        judge_ratio(summary),
        judge_collected(totals),
        judge_served(totals),
        *judge_under_way(session.watch.samples, session.config),
        *(judge_books_when_stopped(one.stopped) for one in session.resumptions if one.stopped is not None),
        *(judge_windows(number, one) for number, one in enumerate(session.findings, 1)),
        judge_growth(session.watch.samples, session.resumptions),
        *(judge_resumption(one) for one in session.resumptions),
        *itertools.chain.from_iterable(judge_loss(one, session.watch.samples) for one in session.resumptions),
        *judge_returns_go_on(session.resumptions, episodes),
        judge_return(episodes, twin),
    ]


def judge_stops(outcomes: Sequence[Outcome]) -> Iterable[Verdict]:
    """One verdict for each kind of fault.

    A run in which one side works has not stopped: a learner that was killed first makes up for the updates that it had not
    saved, and the ratio holds actors back for so long. What each side waited for is in the table of faults.
    """
    for kind, group in itertools.groupby(sorted(outcomes, key=lambda one: one.kind), key=lambda one: one.kind):
        stops = sorted(one.stop for one in group)
        yield Verdict(
            f"after {kind} the run never stops for more than {STOP_SECONDS:.0f} s",
            f"{len(stops)} times, longest time without a step or an update: median {statistics.median(stops):.1f} s, "
            f"most {stops[-1]:.1f} s",
            stops[-1] <= STOP_SECONDS,
        )


def judge_ratio(summary: Mapping[str, Any]) -> Verdict:
    achieved, target = summary["samples_per_insert_achieved"], summary["samples_per_insert_target"]
    off = achieved / target - 1
    return Verdict(
        f"samples per insert within {RATIO_TOLERANCE:.0%}",
        f"{achieved:.4f} of {target:g} ({off:+.2%}) over {summary['transitions_inserted']:,} transitions",
        abs(off) <= RATIO_TOLERANCE,
    )


def judge_collected(totals: Mapping[str, float]) -> Verdict:
    collected, inserted, dropped = (
        totals.get(f"actor.transitions_{name}", 0.0) for name in ("collected", "inserted", "dropped")
    )
    shards = totals["replay.transitions_inserted"]
    return Verdict(
        "collected = inserted + dropped",
        f"{collected:,.0f} = {inserted:,.0f} + {dropped:,.0f}; the shards count {shards:,.0f} insertions",
        collected == inserted + dropped and inserted == shards,
    )


def judge_served(totals: Mapping[str, float]) -> Verdict:
    served, trained, discarded = (totals.get(f"learner.samples_{name}", 0.0) for name in ("served", "trained", "discarded"))
    return Verdict(
        "served = trained + discarded", f"{served:,.0f} = {trained:,.0f} + {discarded:,.0f}", served == trained + discarded
    )


def judge_under_way(samples: Sequence[Sample], config: Config) -> Iterable[Verdict]:
    """At every look: what is taken and neither done nor given up is what streams can hold, whatever happened to members."""
    actors, agent = config.actors, config.agent
    per_stream = actors.max_in_flight_items + 2 * agent.stored_steps + 1
    batches = 3 * (config.replay.num_shards + 1)  # of each stream and of the queue: on its way, waiting, in the making
    for names, most in (
        (
            ("actor.transitions_collected", "actor.transitions_inserted", "actor.transitions_dropped"),
            (actors.num_actors or 1) * actors.envs_per_actor * per_stream,
        ),
        (
            ("learner.samples_served", "learner.samples_trained", "learner.samples_discarded"),
            config.learner.batch_size * batches,
        ),
    ):
        found = []
        for one in samples:
            taken, done, given_up = (one.totals.get(name, 0.0) for name in names)
            found.append(taken - done - given_up)
        yield Verdict(
            f"{names[0]} without what is done or given up: 0 to {most:,} at any time",
            f"{min(found):,.0f} to {max(found):,.0f} in {len(found):,} looks",
            min(found) >= 0 and max(found) <= most,
        )


def judge_books_when_stopped(summary: Mapping[str, Any]) -> Verdict:
    """After Ctrl-C nothing is under way: the books of all that the run has been through are even as they are.

    Of items that killed actors had under way nobody knows which got to a shard; the shards' count is off from the confirmed
    ones by no more than these.
    """
    collected, confirmed, dropped, inserted = (
        summary[f"transitions_{name}"] for name in ("collected", "confirmed", "dropped", "inserted")
    )
    served, trained, discarded = (summary[f"samples_{name}"] for name in ("served", "trained", "discarded"))
    achieved, target = summary["samples_per_insert_achieved"], summary["samples_per_insert_target"]
    return Verdict(
        "when it is stopped: collected = inserted + dropped, served = trained + discarded, the ratio within 1 %",
        f"{collected:,} = {confirmed:,} + {dropped:,}; {served:,} = {trained:,} + {discarded:,}; {achieved:.4f} of {target:g}; "
        f"the shards count {inserted:,} insertions",
        collected == confirmed + dropped
        and served == trained + discarded
        and abs(achieved / target - 1) <= RATIO_TOLERANCE
        and abs(inserted - confirmed) <= summary["transitions_dropped_with_actors"],
    )


def judge_loss(one: Resumption, samples: Sequence[Sample]) -> Iterable[Verdict]:
    """The geometric mean of some seconds is not above the one before; nothing where too few readings could show it.

    A reading is one batch's. Most batches hold what is well predicted, some a gamble that is not, four times apart: as
    logarithms their spread is the same at any size of the loss. A loss that gets lower is none that went wrong.
    """
    before = _readings([look.loss for look in samples if look.timeline == one.before.timeline])[-LOSS_READINGS:]
    after = _readings([look.loss for look in samples if look.timeline == one.after.timeline])[:LOSS_READINGS]
    if min(len(before), len(after)) < LEAST_LOSS_READINGS:
        return
    logs = [np.log(losses) for losses in (before, after)]
    variance = sum(((of - of.mean()) ** 2).sum() for of in logs) / (len(before) + len(after) - 2)
    error = math.sqrt(variance * (1 / len(before) + 1 / len(after)))
    factor = math.exp(max(math.log(LOSS_FACTOR), LOSS_ERRORS * error))
    means = [float(np.exp(of.mean())) for of in logs]
    yield Verdict(
        "the loss is not above what it was",
        f"{means[0]:.3f} in {len(before)} readings before, {means[1]:.3f} in {len(after)} after (at most {factor:.1f} times)",
        means[1] <= factor * means[0],
    )


def _readings(losses: Sequence[float | None]) -> list[float]:
    """Each once: the learner reads its loss once a second, and is looked at twice."""
    return [loss for loss, _ in itertools.groupby(losses) if loss]


def judge_windows(number: int, findings: Findings) -> Verdict:
    found = f"{findings.items:,} items of {findings.episodes:,} episodes of {findings.incarnations} incarnations"
    return Verdict(
        f"no window crosses a reset, no transition is there twice (reading {number})",
        "; ".join([f"{found}, {findings.cut_short} cut short", *findings.problems]),
        findings.items > 0 and not findings.problems,
    )


def judge_growth(samples: Sequence[Sample], resumptions: Sequence[Resumption]) -> Verdict:
    """Counters never fall, but where a run goes on from an earlier moment."""
    after_kills = {one.after.timeline for one in resumptions}
    falls = [
        f"{name} from {earlier.totals[name]:,.0f} to {later.totals[name]:,.0f}"
        for earlier, later in itertools.pairwise(samples)
        for name in GROWING
        if later.totals.get(name, 0.0) < earlier.totals.get(name, 0.0)
        and not (earlier.timeline < later.timeline and later.timeline in after_kills)
    ]
    return Verdict("no counter falls", "; ".join(falls) or f"{len(samples):,} looks", not falls)


def judge_resumption(one: Resumption) -> Verdict:
    """The run goes on with the counts of its newest generation, which is one moment of its past."""
    base = one.after.generations[-1] if one.after.generations else Generation()
    pairs = {
        name: (one.before.totals[name], float(at_base), one.after.totals[name])
        for name, at_base in (("actor.env_steps", base.env_steps), ("learner.updates", base.updates))
    }
    seen = {known.generation: known for known in one.before.generations}
    # The newest one may have been committed after the last look: there is nothing seen to hold it against then.
    is_newest = base.generation >= max(seen, default=1)
    is_past = base.generation not in seen or all(after <= before for before, _, after in pairs.values())
    loses_nothing = one.stopped is None or all(
        one.stopped[name] == one.after.totals[counter]
        for name, counter in (("updates", "learner.updates"), ("transitions_inserted", "replay.transitions_inserted"))
    )
    return Verdict(
        "kill -9 of everything and --resume goes back to the newest generation, and to nothing else"
        if one.stopped is None
        else "Ctrl-C and --resume goes on from where it stopped",
        f"generation {base.generation}: "
        + ", ".join(f"{name} {before:,.0f} -> {after:,.0f}" for name, (before, _, after) in pairs.items()),
        is_newest
        and is_past
        and one.after.timeline > one.before.timeline
        and loses_nothing
        and all(0 < at_base == after for _, at_base, after in pairs.values()),
    )


class Earned(NamedTuple):
    """Rewards per step of some episodes. A return is mostly the luck of how long an episode is; this is skill."""

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
        """How much less than here may be earned elsewhere and be taken for the same."""
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
    """The last hundred episodes before each stop, and before the next one."""
    recent = [list(one.before.recent_episodes) for one in resumptions] + [list(last[-RECENT:])]
    for before, after in itertools.pairwise(map(Earned.of, recent)):
        margin = before.margin(after)
        yield Verdict(
            "the return goes on where it was",
            f"rewards per step: {before} before, {after} after (margin {margin:.3f})",
            after.per_step >= before.per_step - margin,
        )


def fault_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: for each kind of fault and role, how long until the run went on."""
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

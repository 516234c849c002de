"""A run's progress from two or more answers of the coordinator: rates, the ratio, and who waits for whom."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sbrl.config import Config
from sbrl.coordination.fleet_watch import total
from sbrl.monitor.run_status import RunStatus
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member

WINDOW_SECONDS = 15.0
WAITING_SHARE = 0.1  # of the time; less is not reported


class Progress(NamedTuple):
    """One reading of a run."""

    env_steps: int
    target_env_steps: int
    updates: int
    env_steps_per_second: float
    updates_per_second: float
    eta_seconds: float | None  # None: unknown
    samples_per_insert: float  # achieved; 0 during warm-up
    updates_per_step: float  # achieved, after warm-up
    memory_transitions: int  # in the learner's replay memory
    shard_sizes: tuple[int, ...]  # transitions in each shard's log
    return_mean: float | None  # of the last 100 training episodes
    num_episodes: int
    evaluation: tuple[float, int] | None  # newest mean return, and its env_steps
    weights_version: int
    weights_age_seconds: float | None
    waiting: str  # who waits for whom
    alive: dict[str, int]  # live members by role


class ProgressMeter:
    """Turns the coordinator's answers into readings. Rates cover the last 15 seconds."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._history: deque[tuple[float, GetStatusResponse]] = deque()

    def read(self, status: GetStatusResponse, now: float | None = None) -> Progress:
        """A reading at `now` (seconds of the monotonic clock; None: the present)."""
        now = time.monotonic() if now is None else now
        self._history.append((now, status))
        while len(self._history) > 2 and now - self._history[0][0] > WINDOW_SECONDS:
            self._history.popleft()
        config, run = self._config, RunStatus.of(status, self._config.min_replay_size)
        steps_rate = self._rate(lambda status: total(status, "actor.env_steps"))
        remaining = config.run.env_steps - run.env_steps
        return Progress(
            env_steps=run.env_steps,
            target_env_steps=config.run.env_steps,
            updates=run.updates,
            env_steps_per_second=steps_rate,
            updates_per_second=self._rate(lambda status: status.progress.updates),
            eta_seconds=max(0.0, remaining) / steps_rate if steps_rate > 0 else None,
            samples_per_insert=run.samples_per_insert or 0.0,
            updates_per_step=run.updates_per_step or 0.0,
            memory_transitions=run.memory_transitions,
            shard_sizes=tuple(
                int(member.gauges.get("transitions", 0))
                for member in sorted(members(status, "replay"), key=lambda member: member.index)
            ),
            return_mean=mean([episode.episode_return for episode in status.recent_episodes]),
            num_episodes=int(status.num_episodes),
            evaluation=(status.last_evaluation.return_mean, int(status.last_evaluation.env_steps))
            if status.HasField("last_evaluation")
            else None,
            weights_version=int(status.weights_version),
            weights_age_seconds=status.weights_age_seconds
            if status.weights_age_seconds >= 0 and status.weights_version
            else None,
            waiting=self._waiting(status, run),
            alive={
                role: sum(member.alive for member in members(status, role))
                for role in ("coordinator", "replay", "actor", "learner", "evaluator")
            },
        )

    def _rate(self, count: Callable[[GetStatusResponse], float]) -> float:
        """Growth of a count per second over the window."""
        (first_time, first), (last_time, last) = self._history[0], self._history[-1]
        elapsed = last_time - first_time
        return max(0.0, count(last) - count(first)) / elapsed if elapsed > 0 else 0.0

    def _waiting(self, status: GetStatusResponse, run: RunStatus) -> str:
        if run.learner_state == "filling":
            return f"learner fills its memory from the shards' logs: {run.memory_transitions:,} transitions"
        if run.received < self._config.min_replay_size:
            return f"warming up: {run.received:,} of {self._config.min_replay_size:,} transitions"
        num_actors = max(1, sum(member.alive for member in members(status, "actor")))
        learner = min(1.0, self._rate(lambda status: total(status, "learner.blocked_seconds.replay")))
        actors = min(1.0, self._rate(lambda status: total(status, "actor.blocked_seconds.replay")) / num_actors)
        answer = min(1.0, self._rate(lambda status: total(status, "actor.blocked_seconds.coordinator")) / num_actors)
        if answer > max(learner, actors, WAITING_SHARE):
            return f"actors wait for the coordinator, {answer:.0%} of their time"
        if max(learner, actors) < WAITING_SHARE:
            return "nobody waits"
        if learner > actors:
            return f"learner waits for actors, {learner:.0%} of its time"
        return f"actors wait for the learner, {actors:.0%} of their time"


def members(status: GetStatusResponse, role: str) -> list[Member]:
    """The members of one role, alive or not."""
    return [member for member in status.members if member.role == role]


def mean(values: Iterable[float]) -> float | None:
    """The mean; None if there are no values."""
    values = list(values)
    return sum(values) / len(values) if values else None

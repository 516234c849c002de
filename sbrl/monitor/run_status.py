"""The state of a run from the coordinator's answer. Only this module computes a run's numbers from counts. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Self

from sbrl import config as configs
from sbrl.config import SEGMENT_STEPS, Config
from sbrl.coordination.fleet import CUT_COUNTER, SAMPLING_NAMES, STEPS_COUNTER, RunState
from sbrl.coordination.fleet_watch import run_state, total
from sbrl.v1.fleet_pb2 import (
    LEARNER_STATE_FILLING,
    LEARNER_STATE_TRAINING,
    LEARNER_STATE_WAITING,
    LEARNER_STATE_WARMING,
    GetStatusResponse,
)

LEARNER_STATES = {
    LEARNER_STATE_FILLING: "filling",
    LEARNER_STATE_WARMING: "warming",
    LEARNER_STATE_WAITING: "waiting",
    LEARNER_STATE_TRAINING: "training",
}


class ShardStatus(NamedTuple):
    """The transitions that the learner has received from one shard."""

    received: int
    duplicates: int
    lost: int  # without those that came after all
    answers: bool


class RunStatus(NamedTuple):
    """A run at one time.

    env_steps - cut = received + lost + in_flight. With a constant ratio r, samples_due = r * (received - min_size).
    `cut` counts the steps at which the environment returned bad values.
    """

    state: RunState | None  # None before the coordinator's first answer
    env_steps: int  # a transition each, except steps at which an episode was cut
    received: int  # transitions that the learner has received, each counted once
    lost: int  # missing transitions
    in_flight: int  # transitions on their way, or lost without the learner knowing yet
    duplicates: int
    updates: int
    samples_trained: int
    samples_due: float  # for the transitions received after warm-up
    samples_per_insert: float | None  # trained per transition received after warm-up; None during warm-up
    updates_per_step: float | None  # the same in updates
    shards: tuple[ShardStatus, ...]
    learner_state: str  # filling, warming, waiting, training; empty before the first learner
    sampling: str  # cached or remote; empty before the first learner
    memory_transitions: int

    @property
    def drift(self) -> float:
        """Samples trained beyond the samples due, as a share of the samples due; 0 before any is due."""
        return self.samples_trained / self.samples_due - 1 if self.samples_due > 0 else 0.0

    def keeps_ratio(self, samples_per_insert: float, ahead: float, tolerance: float) -> bool:
        """Whether the samples trained match the samples due.

        Args:
            ahead: transitions that the learner may receive ahead of its updates. The learner may be behind by this many, and
                by the last segment, which can exceed the limit. A learner that sets the pace always is.
            tolerance: a share of the samples due.
        """
        behind = samples_per_insert * (ahead + SEGMENT_STEPS)
        slack = tolerance * self.samples_due
        return -slack - behind <= self.samples_trained - self.samples_due <= slack

    @classmethod
    def of(cls, status: GetStatusResponse, min_size: int) -> Self:
        """Reads an answer. Args: min_size: replay.min_size."""
        progress = status.progress
        shards = tuple(
            ShardStatus(shard.received, shard.duplicates, shard.lost - shard.recovered, shard.answers)
            for shard in progress.shards
        )
        env_steps, cut = (int(total(status, f"actor.{counter}")) for counter in (STEPS_COUNTER, CUT_COUNTER))
        received = sum(shard.received for shard in shards)
        lost = sum(shard.lost for shard in shards) + progress.lost_with_actors
        warm = received - min_size
        return cls(
            state=run_state(status),
            env_steps=env_steps,
            received=received,
            lost=lost,
            in_flight=env_steps - cut - received - lost,
            duplicates=sum(shard.duplicates for shard in shards),
            updates=progress.updates,
            samples_trained=progress.samples_trained,
            samples_due=progress.samples_due,
            samples_per_insert=progress.samples_trained / warm if warm > 0 else None,
            updates_per_step=progress.updates / warm if warm > 0 else None,
            shards=shards,
            learner_state=LEARNER_STATES.get(progress.state, ""),
            sampling=SAMPLING_NAMES[progress.sampling],
            memory_transitions=progress.memory_transitions,
        )


def config_of(status: GetStatusResponse) -> Config | None:
    """The coordinator's copy of the run's config; None before its first answer.

    Raises:
        UsageError: it is from another version of SBRL.
    """
    return _parsed(status.config) if status.config else None


@lru_cache(maxsize=4)
def _parsed(text: str) -> Config:
    return configs.parse(text, "the coordinator's config")

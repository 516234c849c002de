"""Schedules that depend only on the number of updates: resets, and n and discount of targets. Pure."""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

from sbrl.config import Agent, Config


class ResetSchedule(NamedTuple):
    """Resets follow updates `period`, 2 * `period`, ... up to `limit` resets."""

    period: int  # updates between two resets
    limit: float  # infinity if there is no limit

    @classmethod
    def of(cls, config: Config) -> ResetSchedule:
        """Every learner.reset_period updates while the run has collected less than learner.no_resets_after_env_steps.

        The env steps of an update are those at which the ratio allows it, replay.min_size + updates / learner.updates_per_step,
        not those collected at that moment. So resets do not depend on the speeds of actors and learner.
        """
        learner = config.learner
        if learner.reset_period is None:
            return cls(period=1, limit=0)
        if learner.no_resets_after_env_steps is None:
            return cls(learner.reset_period, math.inf)
        steps_left = learner.no_resets_after_env_steps - config.min_replay_size
        first_refused = math.ceil(steps_left * learner.updates_per_step / learner.reset_period)
        return cls(learner.reset_period, limit=max(0, first_refused - 1))

    def resets(self, updates: int) -> int:
        """Resets made after this number of updates, including one that follows the last update."""
        return int(min(updates // self.period, self.limit))

    def is_due(self, updates: int) -> bool:
        """Whether a reset follows the update with this number."""
        return self.resets(updates) > self.resets(updates - 1)

    def updates_to_next(self, updates: int) -> int:
        """Updates, at least one, up to and with the next one that a reset follows; sys.maxsize if there is none."""
        if self.resets(updates) >= self.limit:
            return sys.maxsize
        return self.period - updates % self.period

    def updates_since(self, updates: int) -> int:
        """Updates since the last reset, or since the start."""
        return updates - self.period * self.resets(updates)


class Horizon(NamedTuple):
    """How far a target looks ahead."""

    n_step: int
    discount: float  # per step


class HorizonSchedule(NamedTuple):
    """n and discount, annealed from their initial values over agent.anneal_updates, at the start and after each reset.

    As in BBF (Schwarzer et al. 2023), both change exponentially: log n and log(1 - discount) are interpolated linearly over the
    anneal, and n is rounded.
    """

    agent: Agent
    resets: ResetSchedule

    @classmethod
    def of(cls, config: Config) -> HorizonSchedule:
        return cls(config.agent, ResetSchedule.of(config))

    def at(self, updates: int) -> Horizon:
        """The horizon of the update that follows `updates` updates."""
        agent = self.agent
        done = min(1.0, self.resets.updates_since(updates) / agent.anneal_updates)
        n_step, discount = agent.n_step, agent.discount
        if agent.n_step_initial is not None and done < 1:
            n_step = round(_interpolate(agent.n_step_initial, n_step, done))
        if agent.discount_initial is not None and done < 1:
            discount = 1 - _interpolate(1 - agent.discount_initial, 1 - discount, done)
        return Horizon(n_step, discount)


def _interpolate(start: float, end: float, done: float) -> float:
    """Interpolates from `start` to `end`, linearly in the logarithm."""
    return start * math.exp(done * math.log(end / start))

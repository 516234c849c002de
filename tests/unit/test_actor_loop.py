"""How an actor ends: what it gives up then, and that it starts again when it is another actor."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from actors.loop import ActorLoop
from actors.stream import Identity, TransitionStream, WarmUp
from sbrl import config
from sbrl.envs.make import make_envs
from sbrl.fleet import Instructions, RunState
from sbrl.lifecycle import START_AGAIN
from sbrl.metrics import ActorMetrics
from sbrl.networks.build import build_network
from sbrl.policy import EpsilonGreedyPolicy
from sbrl.replay.writer import BlockedError

CONFIG = config.load(overrides=["env.id=CartPole-v1", "run.env_steps=10000", "actors.envs_per_actor=1"])


class Writer:
    """A shard that takes `admitted` items and, its limiter being shut, no more."""

    shard = items_created = unmade = 0
    ended = False

    def __init__(self, admitted: int) -> None:
        self._admitted = admitted

    @property
    def unconfirmed(self) -> int:
        return max(0, self.items_created - self._admitted)

    def begin(self, shard: int, *others: object) -> None:
        pass

    def append(self, transition: object) -> None:
        self.items_created += 1

    def flush(self, max_in_flight: int, timeout: float) -> None:
        if self.unconfirmed > max_in_flight:
            threading.Event().wait(timeout)
            raise BlockedError("nothing confirmed")

    def end(self) -> None:
        self.ended = True

    def close(self) -> None:
        pass


class Member:
    """A membership in which the coordinator gives the actor, 0 so far, another index when it has taken some steps."""

    incarnation = 1
    instructions = Instructions(RunState.RUNNING, 0, 1000, 1000)

    def __init__(self, steps: int, index: int) -> None:
        self._steps, self._index = steps, index

    @property
    def index(self) -> int:
        return 0 if self._steps > 0 else self._index

    def of_this_lease(self, counters: dict[str, float]) -> tuple[int, dict[str, float]]:
        self._steps -= 1
        return self.incarnation, counters


def test_an_actor_that_is_given_another_index_drains_and_starts_again() -> None:
    stop, registry = threading.Event(), CollectorRegistry()
    writer, probe = Writer(admitted=4), SimpleNamespace(is_up=True, down_seconds=0.0, admitting_seconds=0.0)
    stream = TransitionStream(
        cast(Any, writer),
        cast(Any, [probe]),
        Identity(0, 1, 0),
        max_in_flight=100,
        stop=stop,
        drain_seconds=0.05,
        warm_up=WarmUp(piece_steps=1000, is_on=lambda: False),
    )
    envs = make_envs(CONFIG.env, 1, seed=0)
    loop = ActorLoop(
        CONFIG,
        envs,
        EpsilonGreedyPolicy(build_network(CONFIG.agent, envs.spec), envs.spec.num_actions, seed=0),
        [stream],
        cast(Any, SimpleNamespace(take=lambda: None, age_seconds=0.0, lag_versions=0)),
        cast(Any, SimpleNamespace(add=lambda _: None, dropped=0)),
        cast(Any, Member(steps=7, index=3)),
        ActorMetrics(registry),
        stop,
        cast(Any, SimpleNamespace(write=lambda incarnation, counters: None)),
    )

    def dropped(reason: str) -> float | None:
        return registry.get_sample_value("sbrl_actor_transitions_dropped_total", {"reason": reason})

    assert (dropped("shard_lost"), dropped("stopped")) == (0.0, 0.0)
    with pytest.raises(SystemExit) as end:
        loop.run()
    assert end.value.code == START_AGAIN
    assert stop.is_set()
    assert writer.ended
    stream.close()
    loop.report()
    envs.close()
    # Seven items, of which the shard took four: it is there, so that what is given up is the actor's doing.
    assert (stream.created, stream.inserted, stream.dropped) == (7, [4], 3)
    assert (dropped("shard_lost"), dropped("stopped")) == (0.0, 3.0)

"""An actor's end: the steps that it gives up, and its restart when it gets another index."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from actors.loop import ActorLoop
from actors.segment_stream import SegmentStream
from sbrl import config
from sbrl.coordination.fleet import Instructions, RunState
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy
from sbrl.replay.segments import SegmentShape, Stream
from sbrl.runtime.lifecycle import START_AGAIN
from sbrl.telemetry.metrics import ActorMetrics

CONFIG = config.load(overrides=["env.id=CartPole-v1", "run.env_steps=10000", "actors.envs_per_actor=1"])


class Writer:
    """A shard that takes `admitted` segments of two steps; then its queue is full."""

    shard, oldest_seconds = 0, 0.0

    def __init__(self, admitted: int) -> None:
        self._admitted = admitted
        self.unconfirmed = self.confirmed_steps = 0
        self.steps = 0

    def open(self, shard: int, stream: Stream) -> None:
        pass

    def row(self, row: Any) -> None:
        self.steps += row.action >= 0

    def segment(self) -> None:
        self.unconfirmed += 1

    def flush(self, max_unconfirmed: int, timeout: float) -> bool:
        confirmed = min(self.unconfirmed - max_unconfirmed, self._admitted)
        self.unconfirmed -= confirmed
        self._admitted -= confirmed
        self.confirmed_steps += 2 * confirmed
        if self.unconfirmed > max_unconfirmed:
            threading.Event().wait(timeout)
        return self.unconfirmed <= max_unconfirmed

    def close(self) -> None:
        pass


class Member:
    """A membership in which the coordinator gives actor 0 another index after some steps."""

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
    writer, probe = Writer(admitted=2), SimpleNamespace(is_away=False, room_seconds=0.0, wait_answer=lambda seconds: True)
    envs = make_envs(CONFIG.env, 1, seed=0)
    shape = SegmentShape.of(envs.spec, n_max=1)._replace(steps=2)
    stream = SegmentStream(
        cast(Any, writer),
        shape,
        cast(Any, [probe]),
        first=Stream(actor=0, incarnation=1, env=0, stream=0),
        preferred=0,
        stop=stop,
        drain_seconds=0.05,
    )
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
    assert writer.steps == 7
    stream.close()
    loop.report()
    envs.close()
    # Seven steps, of which the shard took two segments. The shard is not away, so the actor gave up the rest.
    assert (stream.created, stream.inserted, stream.dropped) == (7, 4, 3)
    assert (dropped("shard_lost"), dropped("stopped")) == (0.0, 3.0)

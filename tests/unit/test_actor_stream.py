"""What a stream counts while it waits."""

from __future__ import annotations

import threading
from typing import Any, cast

import numpy as np
import pytest

from actors import stream
from actors.stream import Identity, TransitionStream, WarmUp
from sbrl.replay.writer import BlockedError

OBSERVATION = np.zeros((1, 4), np.float32)


class BlockedWriter:
    """A writer whose shard admits nothing for some waits."""

    items_created = unconfirmed = unmade = 0

    def __init__(self, waits: int) -> None:
        self._waits, self.shard = waits, -1

    def begin(self, shard: int, *others: object) -> None:
        self.shard = shard

    def append(self, transition: object) -> None:
        pass

    def flush(self, max_in_flight: int, timeout: float) -> None:
        threading.Event().wait(timeout)
        if self._waits > 0:
            self._waits -= 1
            raise BlockedError("nothing confirmed")
        self.unconfirmed = min(self.unconfirmed, max_in_flight)

    def end(self) -> None:
        pass

    def close_episode(self, timeout: float) -> None:
        pass


class Probe:
    """A shard that comes up after some waits."""

    def __init__(self, waits: int) -> None:
        self._waits, self.down_seconds, self.admitting_seconds = waits, 0.0, 0.0

    @property
    def is_up(self) -> bool:
        return self._waits == 0

    def wait_up(self, timeout: float) -> None:
        threading.Event().wait(timeout)
        self._waits -= 1


@pytest.mark.parametrize(("flushes", "probes"), [(3, 0), (0, 3)], ids=["limiter", "no shard"])
def test_a_wait_is_counted_while_it_lasts(monkeypatch: pytest.MonkeyPatch, flushes: int, probes: int) -> None:
    monkeypatch.setattr(stream, "FLUSH_SECONDS", 0.02)
    seen: list[float] = []
    blocked = TransitionStream(
        cast(Any, BlockedWriter(flushes)),
        cast(Any, [Probe(probes)]),
        Identity(0, 0, 0),
        max_in_flight=1,
        stop=threading.Event(),
        drain_seconds=1.0,
        warm_up=WarmUp(piece_steps=1000, is_on=lambda: False),
        while_blocked=lambda: seen.append(blocked.blocked_seconds),
    )
    blocked.begin(OBSERVATION)
    blocked.append(cast(Any, None), OBSERVATION)
    assert len(seen) == 3
    assert 0.015 < seen[0] < seen[1] < seen[2] <= blocked.blocked_seconds


def test_what_an_actor_that_stops_could_not_confirm_stays_of_its_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next episode's first confirmation would else be taken for the items of the one before, on another shard."""
    monkeypatch.setattr(stream, "FLUSH_SECONDS", 0.02)
    writer, stop = BlockedWriter(waits=1), threading.Event()
    stopped = TransitionStream(
        cast(Any, writer),
        cast(Any, [Probe(0), Probe(0)]),
        Identity(0, 0, 0),
        max_in_flight=1,
        stop=stop,
        drain_seconds=0.02,
        warm_up=WarmUp(piece_steps=1000, is_on=lambda: False),
    )
    stopped.begin(OBSERVATION)
    shard = writer.shard
    writer.items_created = writer.unconfirmed = 5
    stop.set()
    stopped.end()
    assert writer.unconfirmed == 5
    stopped.begin(OBSERVATION)
    stopped.end()  # what was blocked is let in
    assert stopped.inserted[shard] == 5
    assert sum(stopped.inserted) == 5

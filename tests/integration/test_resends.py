"""An actor whose connection breaks before it heard what the shard has inserted sends that again, and nothing counts twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from actors.stream import Identity, TransitionStream, WarmUp
from sbrl.replay.probe import ShardProbe
from sbrl.replay.table import ShardServer

from actors import stream as stream_module
from sbrl.config import load
from sbrl.ports import free_ports
from sbrl.replay.items import ItemShape
from sbrl.replay.segments import Transition
from sbrl.replay.writer import EpisodeWriter
from tests.chaos.proxy import Link, Proxies
from tests.chaos.reading import read_items
from tests.scripted_episodes import frame_of, numbers_of

SHAPE = ItemShape(1, 1, (2,), np.dtype(np.float32))
TIMEOUT = 30.0
# The stream does not wait for confirmations but at the episode's end; what fills chunks is sent all the same.
BEFORE, DURING, IN_FLIGHT = 20, 40, 100
CHUNKED = 10  # steps, at most, that wait for a chunk to be full


class Replay(NamedTuple):
    """A shard, the link that an actor reaches it by, and the actor's stream."""

    server: ShardServer
    link: Link
    stream: TransitionStream
    addresses: list[str]  # the writer's
    proxies: Proxies


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    config = load(
        overrides=[
            *("env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1", "agent.n_step=1"),
            *("agent.n_max=1", "replay.error_buffer=1e9", "replay.capacity=1000"),
        ]
    )
    (port,) = free_ports("127.0.0.1", 1)
    server = ShardServer(config, SHAPE, 0, port, tmp_path / "shard")
    probe = ShardProbe(f"127.0.0.1:{port}", shard=0)
    probe.start()
    proxies = Proxies()
    proxies.start()
    link = proxies.open(f"127.0.0.1:{port}")
    addresses = [link.address]
    stream = TransitionStream(
        EpisodeWriter(addresses, SHAPE),
        [probe],
        Identity(actor=0, incarnation=1, env=0),
        max_in_flight=IN_FLIGHT,
        stop=threading.Event(),
        drain_seconds=TIMEOUT,
        warm_up=WarmUp(piece_steps=1000, is_on=lambda: False),
    )
    yield Replay(server, link, stream, addresses, proxies)
    stream.close()
    probe.stop()
    proxies.close()
    server.stop()


def test_a_stream_whose_machine_is_gone_is_made_anew(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard is back on another machine, and answers; of the old connection nobody will ever hear again."""
    monkeypatch.setattr(stream_module, "GIVE_UP_SECONDS", 2.0)
    server, link, stream, *_ = replay
    stream.begin(frame_of(1)[None])
    step(stream, range(BEFORE))
    wait_for(lambda: server.info().inserted >= BEFORE - CHUNKED)
    link.strand()
    other = replay.proxies.open(f"127.0.0.1:{server.port}")
    replay.addresses[0] = other.address  # a name that leads there would do so by itself
    step(stream, range(BEFORE, BEFORE + DURING + 2 * IN_FLIGHT))
    stream.end()
    assert (link.connections, other.connections) == (1, 1)
    assert stream.dropped > 0
    assert stream.created == sum(stream.inserted) + stream.dropped
    inserted = server.info().inserted
    assert sum(stream.inserted) <= inserted <= sum(stream.inserted) + stream.dropped, "what was under way may be there"


def test_what_is_sent_again_after_a_reset_is_there_once(replay: Replay, tmp_path: Path) -> None:
    server, link, stream, *_ = replay
    stream.begin(frame_of(1)[None])
    step(stream, range(BEFORE))
    wait_for(lambda: server.info().inserted >= BEFORE - CHUNKED)

    link.hold_answers()
    sent = link.bytes_sent
    step(stream, range(BEFORE, BEFORE + DURING))
    wait_for(lambda: server.info().inserted >= BEFORE + DURING - CHUNKED)
    sent_first = link.bytes_sent - sent
    assert link.connections == 1

    sent = link.bytes_sent
    link.reset()
    stream.end()
    stream.close()
    assert link.connections > 1
    assert link.bytes_sent - sent > sent_first  # again, and what was left to send

    steps = BEFORE + DURING
    assert (server.info().inserted, stream.inserted, stream.dropped, stream.created) == (steps, [steps], 0, steps)
    items = read_items(server.checkpoint(), SHAPE, 0, tmp_path / "reading")
    assert len(set(items.key.tolist())) == items.table_size == steps
    order = np.argsort(items.meta[:, 0, 3])  # Reverb stores what arrives at once in an order of its own
    assert items.meta[order, 0, 3].tolist() == list(range(steps))
    np.testing.assert_array_equal(numbers_of(items.frame[order, 0]), np.arange(1, steps + 1))


def step(stream: TransitionStream, steps: range) -> None:
    for t in steps:
        frame = frame_of(t + 2)
        stream.append(Transition(action=0, reward=1.0, terminal=False, frame=frame, weights_version=1), frame[None])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)

"""Sampling from Reverb: items in the table of transitions, segments without frames beside them, and priorities."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from actors.segment_stream import SegmentStream
from learner.algorithm.schedules import Horizon
from learner.remote_batches import ReverbBatches, to_batch
from sbrl.config import Config, load
from sbrl.envs.spec import EnvSpec
from sbrl.errors import UsageError
from sbrl.replay.items import META_FIELDS, TABLE, Items, ItemShape, Transitions
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.sampler import ShardSampler
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segments import Segment, SegmentShape, Stream, Transition
from sbrl.replay.shard import QUEUE_SEGMENTS, ShardServer
from sbrl.replay.transition_writer import TransitionWriter
from sbrl.rpc.ports import free_ports
from tests.integration.segment_shards import TIMEOUT, stop_reading, wait_for
from tests.memories import memory_of, script_of
from tests.scripted_episodes import Episode, check, frame_of, reference

STACK, N_MAX, DISCOUNT = 3, 10, 0.9
SPEC = EnvSpec(
    num_actions=18, frame_shape=(2,), frame_dtype=np.dtype(np.float32), stack=STACK, kind="vector", clip_rewards=False
)
PRIORITY = 5.0  # of new items

# Every length around the stack and the window, terminated and truncated, lives lost on the way.
SCRIPT = script_of(
    [
        *[(*(False,) * (length - 1), length % 2 == 0) for length in (1, 2, 3, 4, 9, 10, 11, 25)],
        (False, True, False, False, True, True, False),
        (False,) * 40,
    ]
)
STEPS = sum(episode.length for episode in SCRIPT)


def config_of(*overrides: str) -> Config:
    return load(
        overrides=["env.id=CartPole-v1", f"agent.n_max={N_MAX}", "replay.num_shards=1", "replay.min_size=10", *overrides]
    )


class Shard:
    """A shard to sample from, an environment's stream to it, and the learner's reader of its queue."""

    def __init__(self, directory: Path, *overrides: str) -> None:
        self.config = config_of(*overrides)
        (self.port,) = free_ports("127.0.0.1", 1)
        self.address, self.directory = f"127.0.0.1:{self.port}", directory
        self.server = self.open("remote")
        self.shape = SegmentShape.of(SPEC, self.config.agent.stored_steps)
        self.items = ItemShape.of_segments(self.shape)
        self.probe = QueueProbe(self.address, 0)
        self.probe.start()
        assert self.probe.wait_answer(TIMEOUT)
        self.stop, self.blocked = threading.Event(), threading.Event()
        self.stream = SegmentStream(
            TransitionWriter([self.address], self.shape, lambda: 0, lambda: PRIORITY),
            self.shape,
            [self.probe],
            Stream(3, 1, 0, 0),
            preferred=0,
            stop=self.stop,
            drain_seconds=1.0,
            while_blocked=self.blocked.set,
        )
        self.segments: list[Segment] = []

    def open(self, sampling: str) -> ShardServer:
        return ShardServer(self.config, SPEC, 0, sampling, self.port, self.directory)

    def play(self, script: Sequence[Episode]) -> None:
        for episode in script:
            self.stream.begin(observation(episode, 0))
            for t in range(episode.length):
                reached = observation(episode, t + 1)
                transition = Transition(episode.action(t), episode.reward(t), episode.terminal[t], reached[-1], 7)
                self.stream.append(transition, reached)
            self.stream.end()

    def read_segments(self) -> SegmentReader:
        reader = SegmentReader(self.address, 0, self.shape.without_frames(), lambda _, segment: self.segments.append(segment))
        reader.start()
        return reader

    def sample_until(self, steps: int) -> Items:
        """Samples batches until each of `steps` steps has come; returns one item of each, in order."""
        found: dict[int, tuple[NDArray[Any], ...]] = {}
        complete = threading.Event()

        def take(items: Items, cancelled: threading.Event) -> bool:
            for k, number in enumerate(items.meta[:, 0, META_FIELDS.index("step")]):
                found[int(number)] = tuple(column[k] for column in items[:7])
            if len(found) == steps:
                complete.set()
            return not complete.is_set()

        sampler = ShardSampler(self.address, 0, self.items, 32, take)
        sampler.start()
        assert complete.wait(TIMEOUT), f"{len(found)} of {steps} steps were sampled"
        sampler.stop()
        assert sorted(found) == list(range(steps))
        columns = [np.array(column) for column in zip(*(found[number] for number in range(steps)), strict=True)]
        frame, action, reward, discount, meta, key, probability = columns
        return Items(frame, action, reward, discount, meta, key, probability, shard=0)

    def close(self) -> None:
        self.stream.close()
        self.probe.stop()
        self.server.stop()


def observation(episode: Episode, t: int) -> NDArray[np.float32]:
    return np.array([frame_of(number) for number in episode.observation(t, STACK)])


@pytest.fixture
def make_shard(tmp_path: Path) -> Iterator[Callable[..., Shard]]:
    made: list[Shard] = []

    def make(*overrides: str) -> Shard:
        made.append(Shard(tmp_path, *overrides))
        return made[-1]

    yield make
    for shard in made:
        shard.close()


def test_cached_and_remote_transitions_are_those_of_the_reference_for_every_n(make_shard: Callable[..., Shard]) -> None:
    shard = make_shard("replay.prioritized=false")
    reader = shard.read_segments()
    shard.play(SCRIPT)
    shard.stream.drain()
    items = shard.sample_until(STEPS)
    memory, everything = memory_of(SCRIPT, shard.shape)
    agent = shard.config.agent
    for n_step in range(1, N_MAX + 1):
        expected = [one for episode in SCRIPT for one in reference(episode, STACK, n_step, DISCOUNT)]
        remote = to_batch(items, STACK, agent, Horizon(n_step, DISCOUNT), shard_share=1.0)
        cached = memory.gather(everything, n_step, DISCOUNT)
        for batch in (remote, cached):
            check(Transitions(*(column.numpy() for column in batch[:5])), expected)
        for one, other in zip(remote[:4], cached[:4], strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other)
    assert (items.meta[:, 0] == [[3, 1, 0, step, 7] for step in range(STEPS)]).all()
    np.testing.assert_allclose(items.probability, 1 / STEPS)
    # The queue's segments say the same of every step, without its frames.
    wait_for(lambda: sum(int(one.valid(shard.shape).sum()) for one in shard.segments) == STEPS, "steps are missing")
    stop_reading([reader], shard.shape.without_frames())
    valid = [one.valid(shard.shape) for one in shard.segments]
    rewards = [one.reward[shard.shape.anchors][steps] for one, steps in zip(shard.segments, valid, strict=True)]
    np.testing.assert_array_equal(np.concatenate(rewards), items.reward[:, 0])
    assert all(one.frame.size == 0 for one in shard.segments)


def test_what_is_confirmed_is_in_the_table_and_a_full_queue_holds_the_writer(make_shard: Callable[..., Shard]) -> None:
    shard = make_shard()
    script = script_of([(False,) * 90] * 20)
    writing = threading.Thread(target=shard.play, args=(script,), daemon=True)
    writing.start()
    assert shard.blocked.wait(TIMEOUT)
    held = shard.server.info()
    assert held.queue_segments == QUEUE_SEGMENTS
    assert shard.stream.inserted <= held.transitions <= shard.stream.created < sum(one.length for one in script)
    reader = shard.read_segments()
    writing.join(TIMEOUT)
    assert not writing.is_alive()
    shard.stream.drain()
    assert shard.stream.inserted == 1800
    assert shard.server.info().transitions == 1800
    stop_reading([reader], shard.shape.without_frames())


def test_items_in_the_making_are_dropped_with_their_stream(make_shard: Callable[..., Shard]) -> None:
    """A stop at a full queue takes effect at once; unconfirmed steps are counted."""
    shard = make_shard()
    writing = threading.Thread(target=shard.play, args=(script_of([(False,) * 90] * 8),), daemon=True)
    writing.start()
    assert shard.blocked.wait(TIMEOUT)
    shard.stop.set()
    writing.join(TIMEOUT)
    assert not writing.is_alive()
    shard.stream.close()
    assert shard.stream.inserted + shard.stream.dropped == shard.stream.created == 720
    assert shard.stream.dropped > 0


def test_priorities_return_and_decide_what_is_sampled(make_shard: Callable[..., Shard]) -> None:
    """New items have the writer's priority. A step with a thousand times that makes up most samples."""
    shard = make_shard()
    shard.play(SCRIPT[:4])
    shard.stream.drain()
    batches = ReverbBatches([shard.address], shard.items, shard.config.agent, 4, prioritized=True, max_priority=1.0)
    batches.start()
    horizon = Horizon(3, DISCOUNT)

    def draw() -> Items:
        drawn = batches.next(horizon, TIMEOUT)
        assert drawn is not None
        assert drawn.batch.s_tm1.shape == (4, STACK, 2)
        items: Items = drawn.source
        first = items.meta[:, 0, META_FIELDS.index("step")] == 0
        batches.update_priorities(drawn, torch.from_numpy(np.where(first, 1000.0 * PRIORITY, PRIORITY)))
        return items

    size = sum(episode.length for episode in SCRIPT[:4])
    np.testing.assert_allclose(draw().probability, 1 / size)
    wait_for(lambda: draw().probability.max() > 0.9, "no priority came back")
    assert batches.max_priority() == 1000.0 * PRIORITY
    assert batches.priorities_ignored == 0
    batches.stop()


def test_the_tables_capacity_checkpoint_and_restore(make_shard: Callable[..., Shard]) -> None:
    shard = make_shard("replay.capacity=100", "replay.prioritized=false")
    reader = shard.read_segments()
    shard.play(script_of([(False,) * 90] * 2))
    shard.stream.drain()
    assert (shard.server.capacity, shard.server.info().transitions) == (100, 100)  # the oldest went
    shard.server.checkpoint()
    stop_reading([reader], shard.shape.without_frames())
    shard.server.stop()
    with pytest.raises(UsageError, match=r"replay.sampling is cached, but .* with remote sampling: set it to remote"):
        shard.open("cached")
    shard.server = shard.open("remote")
    info = shard.server.info()
    assert (shard.server.capacity, info.transitions, info.sampled) == (100, 100, 0)
    assert info.log_segments == shard.server.restored_segments > 0
    meta = sorted(shard.items.columns()).index("meta")
    sampled = shard.server.client.sample(TABLE, num_samples=400, emit_timesteps=False)
    assert min(int(item.data[meta][0, 3]) for item in sampled) >= 80  # the number of its step, of 180

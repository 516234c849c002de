"""The way of a transition through real Reverb: what the learner gets is what a plain reference computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbrl.config import Config, load
from sbrl.ports import free_ports
from sbrl.replay.items import TABLE, Items, ItemShape, n_step_transitions
from sbrl.replay.table import ShardServer
from sbrl.replay.writer import EpisodeWriter, Transition

DISCOUNT = 0.9
TIMEOUT = 20.0


class Episode(NamedTuple):
    """A scripted episode: frames[t] is what is seen before action t; the last one is the final observation."""

    frames: list[int]
    rewards: list[float]
    truncated: bool


class Expected(NamedTuple):
    stack: list[int]
    action: int
    r_t: float
    discount_t: float
    stack_t: list[int]


def reference(episode: Episode, stack: int, n_step: int) -> list[Expected]:
    """Every transition of an episode, by the definition: loops, no windows."""
    padded = [0] * (stack - 1) + episode.frames
    length = len(episode.rewards)
    transitions = []
    for t in range(length):
        steps = min(n_step, length - t)
        r_t = sum(DISCOUNT**k * episode.rewards[t + k] for k in range(steps))
        ends = t + steps == length and not episode.truncated
        transitions.append(
            Expected(
                stack=padded[t : t + stack],
                action=t % 5,
                r_t=r_t,
                discount_t=0.0 if ends else DISCOUNT**steps,
                stack_t=padded[t + steps : t + steps + stack],
            )
        )
    return transitions


class Shard:
    """A real shard and one environment's writer to it."""

    def __init__(self, directory: Path, stack: int, n_max: int) -> None:
        self.shape = ItemShape(stack, n_max, (2,), np.dtype(np.float32))
        self.config = shard_config(n_max)
        port = free_ports("127.0.0.1", 1)[0]
        self.server = ShardServer(self.config, self.shape, 0, port, directory)
        self.writer = EpisodeWriter([f"127.0.0.1:{port}"], self.shape)

    def write(self, episode: Episode) -> None:
        frames = [frame_of(number) for number in episode.frames]
        first = np.stack([np.zeros(2, np.float32)] * (self.shape.stack - 1) + frames[:1])
        self.writer.begin(0, first, actor=4, incarnation=7, env=2)
        last = len(episode.rewards) - 1
        for t, reward in enumerate(episode.rewards):
            terminal = t == last and not episode.truncated
            self.writer.append(Transition(t % 5, reward, terminal, frames[t + 1], weights_version=9))
        self.writer.end()
        self.writer.close_episode(TIMEOUT)

    def read_all(self) -> Items:
        """Every item in the table once, oldest first."""
        size = self.server.info().size
        found: dict[int, dict[str, Any]] = {}
        for sample in self.server.client.sample(TABLE, 400 * size, emit_timesteps=False, unpack_as_table_signature=True):
            found.setdefault(int(sample.data["meta"][0][3]), sample.data)
            if len(found) == size:
                break
        assert len(found) == size
        rows = [found[step] for step in sorted(found)]
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return Items.from_columns(
            columns, key=np.arange(size, dtype=np.uint64), probability=np.ones(size), table_size=size, shard=0
        )


def shard_config(n_max: int) -> Config:
    """One uniform shard whose limiter stays out of the way."""
    return load(
        overrides=[
            "env.id=CartPole-v1",
            "run.env_steps=1000",
            "replay.num_shards=1",
            "replay.min_size=1",
            "replay.prioritized=false",
            "replay.error_buffer=1e9",
            "learner.updates_per_step=64",
            "agent.n_step=1",
            f"agent.n_max={n_max}",
        ]
    )


def frame_of(number: int) -> NDArray[np.float32]:
    return np.array([number, -number], np.float32)


def markers(observation: NDArray[Any]) -> list[int]:
    """The numbers of an observation's frames."""
    return [int(frame[0]) for frame in observation]


def episodes(lengths: list[tuple[int, bool]]) -> list[Episode]:
    """Episodes of these lengths and ends, in which every frame and every reward is unique."""
    script, number = [], 1
    for length, truncated in lengths:
        frames = list(range(number, number + length + 1))
        script.append(Episode(frames, [float(1000 + frame) for frame in frames[:-1]], truncated))
        number += length + 1
    return script


@pytest.fixture(scope="module", params=[(1, 1), (3, 3), (4, 10)], ids=lambda param: "stack{}-n{}".format(*param))
def shard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    made = Shard(tmp_path_factory.mktemp("shard"), *request.param)
    yield made
    made.writer.close()
    made.server.stop()


@settings(max_examples=12)
@given(lengths=st.lists(st.tuples(st.integers(1, 13), st.booleans()), min_size=1, max_size=4), data=st.data())
def test_items_are_what_the_reference_computes(shard: Shard, lengths: list[tuple[int, bool]], data: st.DataObject) -> None:
    n_step = data.draw(st.integers(1, shard.shape.n_max))
    shard.server.client.reset(TABLE)
    script = episodes(lengths)
    for episode in script:
        shard.write(episode)
    expected = [transition for episode in script for transition in reference(episode, shard.shape.stack, n_step)]
    items = shard.read_all()
    assert len(items.action) == len(expected)
    got = n_step_transitions(items, shard.shape.stack, n_step, DISCOUNT)
    for k, wanted in enumerate(expected):
        assert markers(got.s_tm1[k]) == wanted.stack
        assert got.a_tm1[k] == wanted.action
        assert got.r_t[k] == pytest.approx(wanted.r_t, rel=1e-6)
        assert got.discount_t[k] == pytest.approx(wanted.discount_t, rel=1e-6)
        if wanted.discount_t > 0:
            assert markers(got.s_t[k]) == wanted.stack_t
    assert set(items.meta[:, 0, 0]) == {4}
    assert set(items.meta[:, 0, 1]) == {7}
    assert set(items.meta[:, 0, 2]) == {2}
    assert set(items.meta[:, 0, 4]) == {9}


def test_life_loss_is_terminal_without_ending_the_stream(tmp_path: Path) -> None:
    shard = Shard(tmp_path, stack=3, n_max=3)
    frames = [frame_of(number) for number in range(1, 7)]
    shard.writer.begin(0, np.stack([np.zeros(2, np.float32)] * 2 + frames[:1]), 0, 1, 0)
    for t in range(5):  # the step from frame 2 to frame 3 is terminal for the learner
        shard.writer.append(Transition(0, 1.0, t == 1, frames[t + 1], 1))
    shard.writer.end()
    shard.writer.close_episode(TIMEOUT)
    got = n_step_transitions(shard.read_all(), 3, 3, DISCOUNT)
    np.testing.assert_allclose(got.r_t, [1.9, 1.0, 2.71, 1.9, 1.0], rtol=1e-6)
    np.testing.assert_allclose(got.discount_t, [0.0, 0.0, DISCOUNT**3, 0.0 + DISCOUNT**2, DISCOUNT], rtol=1e-6)
    shard.server.stop()


def test_checkpoint_falls_back_past_a_truncated_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = Shard(tmp_path, stack=1, n_max=1)
    shard.write(episodes([(5, False)])[0])
    shard.server.checkpoint()
    shard.write(episodes([(4, False)])[0])
    newest = shard.server.checkpoint()
    shard.writer.close()
    shard.server.stop()
    chunks = newest / "chunks.tfrecord"
    chunks.write_bytes(chunks.read_bytes()[:100])  # Reverb itself loads this as an empty table, without a word
    restored = ShardServer(shard.config, shard.shape, 0, free_ports("127.0.0.1", 1)[0], tmp_path)
    assert restored.restored_size == 5
    assert "is corrupt" in caplog.text
    restored.stop()

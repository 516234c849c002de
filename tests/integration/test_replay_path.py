"""A transition's way through the actor's loop and real Reverb: what the learner gets is what a plain reference computes."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.collector import Collector, FinishedEpisode
from actors.stream import Identity, TransitionStream, WarmUp
from bench.sinks import into
from sbrl.config import Config, load
from sbrl.envs.spec import EnvSpec, StepResult
from sbrl.ports import free_ports
from sbrl.replay.items import TABLE, Items, ItemShape, n_step_transitions
from sbrl.replay.probe import ShardProbe
from sbrl.replay.sampler import ShardSampler
from sbrl.replay.segments import Transition
from sbrl.replay.table import ShardServer
from sbrl.replay.writer import EpisodeWriter
from sbrl.sharding import episode_shard
from tests.scripted_episodes import (
    NUM_ACTIONS,
    Episode,
    action_at,
    check,
    columns_by_definition,
    frame_of,
    numbers_of,
    reference,
    terminals,
    with_pieces,
)

DISCOUNT = 0.9
TIMEOUT = 20.0
ACTOR, INCARNATION, VERSION = 4, 7, 9
NO_PIECES = 1000  # steps: more than an episode has


class ScriptedEnvs:
    """Environments whose episodes are scripted: environment e plays script[e], one episode after the other."""

    def __init__(self, script: Sequence[Sequence[Episode]], stack: int) -> None:
        self.spec = EnvSpec(NUM_ACTIONS, (2,), np.dtype(np.float32), stack, "vector", clip_rewards=False)
        self.num_envs = len(script)
        self._script = [iter(episodes) for episodes in script]
        self._playing: list[Episode] = [next(episodes) for episodes in self._script]
        self._t = [0] * self.num_envs

    def reset(self, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        for env in [] if mask is None else np.flatnonzero(mask):
            self._playing[env], self._t[env] = next(self._script[env]), 0
        return self._observe()

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        now = list(zip(self._playing, self._t, strict=True))
        for (episode, t), action in zip(now, actions, strict=True):
            assert action == episode.action(t)
        reward = np.array([episode.reward(t) for episode, t in now], np.float32)
        is_last = np.array([t == episode.length - 1 for episode, t in now])
        terminal = np.array([episode.terminal[t] for episode, t in now])
        self._t = [t + 1 for t in self._t]
        bad = np.zeros_like(is_last)
        return StepResult(self._observe(), reward, is_last & terminal, is_last & ~terminal, terminal & ~is_last, bad)

    def close(self) -> None:
        pass

    def _observe(self) -> NDArray[Any]:
        seen = [episode.observation(t, self.spec.stack) for episode, t in zip(self._playing, self._t, strict=True)]
        return np.array([[frame_of(number) for number in observation] for observation in seen])


class ScriptedPolicy:
    """Acts by the newest frame it sees."""

    def act(self, observation: NDArray[Any], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]:
        return np.array([action_at(number) for number in numbers_of(observation[:, -1]).astype(int)], np.int64)


class Shards:
    """Real shards, and the way of an actor to them."""

    def __init__(self, directory: Path, num_shards: int, stack: int, n_max: int) -> None:
        self.shape = ItemShape(stack, n_max, (2,), np.dtype(np.float32))
        self.config = shard_config(n_max)
        ports = free_ports("127.0.0.1", num_shards)
        self.servers = [ShardServer(self.config, self.shape, 0, port, directory / str(port)) for port in ports]
        self.addresses = [f"127.0.0.1:{port}" for port in ports]
        self.probes = [ShardProbe(address, shard) for shard, address in enumerate(self.addresses)]
        for probe in self.probes:
            probe.start()
            assert probe.wait_up(TIMEOUT)

    def collect(self, script: Sequence[Sequence[Episode]], steps: int, piece_steps: int) -> None:
        """Empties the shards and fills them with what the actor's loop makes of `steps` steps of every environment."""
        for server in self.servers:
            server.client.reset(TABLE)
        finished: list[FinishedEpisode] = []
        streams = [
            TransitionStream(
                EpisodeWriter(self.addresses, self.shape),
                self.probes,
                Identity(ACTOR, INCARNATION, env),
                max_in_flight=8,
                stop=threading.Event(),
                drain_seconds=TIMEOUT,
                warm_up=WarmUp(piece_steps, lambda: piece_steps != NO_PIECES),
            )
            for env in range(len(script))
        ]
        collector = Collector(ScriptedEnvs(script, self.shape.stack), ScriptedPolicy(), streams, finished.append)
        for _ in range(steps):
            collector.step(epsilon=0.0, weights_version=VERSION)
        collector.drain()
        for stream in streams:
            assert (stream.created, stream.dropped) == (steps, 0)
            stream.close()
        played = [(env, episode.length) for env, episodes in enumerate(script) for episode in episodes]
        assert {(episode.env, episode.length) for episode in finished} <= set(played)

    def items(self, shard: int, env: int) -> Items:
        """The items of an environment in a shard, each once, in the order they were written."""
        size = self.servers[shard].info().size
        found: dict[tuple[int, int], dict[str, Any]] = {}
        draws = self.servers[shard].client.sample(TABLE, 400 * size, emit_timesteps=False, unpack_as_table_signature=True)
        for sample in draws if size else []:
            actor, incarnation, writer, step, version = sample.data["meta"][0].tolist()
            assert (actor, incarnation, version) == (ACTOR, INCARNATION, VERSION)
            found.setdefault((writer, step), sample.data)
            if len(found) == size:
                break
        assert len(found) == size
        return in_order([found[name] for name in sorted(found) if name[0] == env], self.shape, shard)

    def stop(self) -> None:
        for probe in self.probes:
            probe.stop()
        for server in self.servers:
            server.stop()


def in_order(rows: Sequence[dict[str, Any]], shape: ItemShape, shard: int) -> Items:
    columns = {
        name: np.array([row[name] for row in rows], dtype).reshape(len(rows), *dims)
        for name, (dims, dtype) in shape.columns().items()
    }
    size = len(rows)
    return Items.from_columns(
        columns, key=np.arange(size, dtype=np.uint64), probability=np.ones(size), table_size=size, shard=shard
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


def scripts(patterns: Sequence[Sequence[tuple[bool, ...]]], steps: int, piece_steps: int) -> list[list[Episode]]:
    """What each environment plays in `steps` steps: these episodes over and over, the last one cut off there."""
    played: list[list[Episode]] = []
    number = itertools.count(1)
    for env_patterns in patterns:
        episodes: list[Episode] = []
        left = steps
        for terminal in itertools.cycle(env_patterns):
            if left == 0:
                break
            episodes.append(with_pieces(next(number), terminal[:left], piece_steps))
            left -= episodes[-1].length
        played.append(episodes)
    return played


def whole(episodes: Sequence[Episode]) -> list[Episode]:
    """What the environment is given to play: it does not know that it will be cut off, and has one more episode ready."""
    last = episodes[-1]
    goes_on = last._replace(terminal=(*last.terminal, False)) if not last.terminal[-1] else last
    return [*episodes[:-1], goes_on, Episode(999, (False,), (1,))]


def check_columns(items: Items, episodes: Sequence[Episode]) -> None:
    """Asserts that the items hold, column by column, what their definition says."""
    stack, n_max = items.frame.shape[1] - items.action.shape[1], items.action.shape[1]
    rows = [row for episode in episodes for row in columns_by_definition(episode, stack, n_max)]
    assert numbers_of(items.frame).tolist() == [row["frame"] for row in rows]
    for name in ("action", "reward", "discount"):
        assert getattr(items, name).tolist() == [row[name] for row in rows]


@pytest.fixture(scope="module", params=[(1, 1), (2, 3), (3, 12), (4, 10)], ids=lambda param: "stack{}-nmax{}".format(*param))
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    made = Shards(tmp_path_factory.mktemp("shards"), 1, *request.param)
    yield made
    made.stop()


@settings(max_examples=60)
@given(
    patterns=st.lists(st.lists(terminals(longest=14), min_size=1, max_size=3), min_size=1, max_size=2),
    steps=st.integers(1, 30),
    piece_steps=st.sampled_from([2, 5, 7, NO_PIECES]),
)
def test_items_are_what_the_reference_computes(
    shards: Shards, patterns: list[list[tuple[bool, ...]]], steps: int, piece_steps: int
) -> None:
    """From the actor's loop to the table: starts, ends, truncations, lives lost, pieces and cuts, for every n up to 10."""
    stack, n_max = shards.shape.stack, shards.shape.n_max
    script = scripts(patterns, steps, piece_steps)
    shards.collect([whole(episodes) for episodes in script], steps, piece_steps)
    for env, episodes in enumerate(script):
        items = shards.items(0, env)
        check_columns(items, episodes)
        for n_step in range(1, min(n_max, 10) + 1):
            expected = [transition for episode in episodes for transition in reference(episode, stack, n_step, DISCOUNT)]
            check(n_step_transitions(items, stack, n_step, DISCOUNT), expected)


@settings(max_examples=30)
@given(pattern=terminals(longest=30), piece_steps=st.integers(1, 9))
def test_pieces_take_turns_over_the_shards_and_none_reaches_into_another(
    two_shards: Shards, pattern: tuple[bool, ...], piece_steps: int
) -> None:
    stack = two_shards.shape.stack
    steps = len(pattern)
    episode = with_pieces(1, pattern, piece_steps)
    two_shards.collect([whole([episode])], steps, piece_steps)
    expected = reference(episode, stack, 3, DISCOUNT)
    for shard in range(2):
        # The stream begins anew after every `piece_steps` steps, and the next one goes to the next shard.
        mine = [expected[t] for t in range(steps) if episode_shard(ACTOR, 0, t // piece_steps, 2) == shard]
        items = two_shards.items(shard, env=0)
        assert len(items.key) == len(mine)
        if mine:
            check(n_step_transitions(items, stack, 3, DISCOUNT), mine)


@pytest.fixture(scope="module")
def two_shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    made = Shards(tmp_path_factory.mktemp("shards"), 2, stack=3, n_max=4)
    yield made
    made.stop()


def test_the_learners_stream_brings_these_items_whole(two_shards: Shards) -> None:
    """Through TensorFlow's data set, in batches, with the shard's probabilities."""
    shape = two_shards.shape
    episode = with_pieces(1, (False, True, False, False, False, False, True), NO_PIECES)
    two_shards.collect([whole([episode])], episode.length, NO_PIECES)
    served: queue.Queue[Items] = queue.Queue(maxsize=1)
    shard = episode_shard(ACTOR, 0, 0, 2)
    sampler = ShardSampler(two_shards.addresses[shard], shard, shape, batch_size=8, sink=into(served))
    sampler.start()
    expected = reference(episode, shape.stack, 4, DISCOUNT)
    seen = set()
    for _ in range(40):
        items = served.get(timeout=TIMEOUT)
        assert (items.shard, items.table_size) == (shard, episode.length)
        np.testing.assert_allclose(items.probability, 1 / episode.length)
        steps = items.action[:, 0] - action_at(episode.frame(0))
        check(n_step_transitions(items, shape.stack, 4, DISCOUNT), [expected[t] for t in steps])
        seen |= set(steps.tolist())
    assert seen == set(range(episode.length))
    sampler.stop()


@pytest.mark.parametrize("leave", [EpisodeWriter.close, EpisodeWriter.abandon])
def test_leaving_items_in_the_making_never_hangs(two_shards: Shards, leave: Callable[[EpisodeWriter], None]) -> None:
    """Reverb's own close hangs in one of some thirty of these, in native code that no time limit of a test ends."""

    def leave_early(times: int) -> None:
        for _ in range(times):
            writer = EpisodeWriter(two_shards.addresses, two_shards.shape)
            writer.begin(0, np.stack([frame_of(1)] * two_shards.shape.stack), ACTOR, INCARNATION, env=0)
            for t in range(2 * two_shards.shape.n_max):
                writer.append(Transition(0, 1.0, False, frame_of(t + 2), VERSION))
            writer.end()
            leave(writer)

    leaving = threading.Thread(target=leave_early, args=(200,), daemon=True)
    leaving.start()
    leaving.join(3 * TIMEOUT)
    assert not leaving.is_alive()


def test_a_lost_shard_costs_each_step_once(two_shards: Shards) -> None:
    """Steps that have no item yet are the last n_max; once the episode is ended each has one, which may be unconfirmed."""
    writer = EpisodeWriter(two_shards.addresses, two_shards.shape)
    writer.begin(0, np.stack([frame_of(1)] * two_shards.shape.stack), ACTOR, INCARNATION, env=0)
    n_max = two_shards.shape.n_max
    for t in range(2 * n_max):
        writer.append(Transition(0, 1.0, False, frame_of(t + 2), VERSION))
        assert writer.unmade == min(t + 1, n_max)
        assert writer.items_created + writer.unmade == t + 1
    writer.end()
    assert (writer.unmade, writer.items_created) == (0, 2 * n_max)
    writer.close()


@pytest.mark.parametrize("end", [False, True])
def test_a_stream_that_is_closed_has_accounted_for_every_step(two_shards: Shards, end: bool) -> None:
    """Also where its episode was cut off by an error: the steps that have no item yet are dropped, and counted."""
    probes = [ShardProbe(address, shard) for shard, address in enumerate(two_shards.addresses)]
    for probe in probes:
        probe.start()
        assert probe.wait_up(TIMEOUT)
    stream = TransitionStream(
        EpisodeWriter(two_shards.addresses, two_shards.shape),
        probes,
        Identity(ACTOR, INCARNATION, 0),
        max_in_flight=8,
        stop=threading.Event(),
        drain_seconds=5.0,
        warm_up=WarmUp(NO_PIECES, lambda: False),
    )
    observation = np.stack([frame_of(1)] * two_shards.shape.stack)
    stream.begin(observation)
    steps = 2 * two_shards.shape.n_max
    for t in range(steps):
        stream.append(Transition(0, 1.0, False, frame_of(t + 2), VERSION), observation)
        assert stream.created == t + 1
    if end:
        stream.end()
    stream.close()
    for probe in probes:
        probe.stop()
    assert stream.created == steps == sum(stream.inserted) + stream.dropped
    assert stream.dropped == (0 if end else two_shards.shape.n_max)


def test_checkpoint_falls_back_past_a_truncated_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, shape = shard_config(n_max=1), ItemShape(1, 1, (2,), np.dtype(np.float32))
    port, other_port = free_ports("127.0.0.1", 2)
    server = ShardServer(config, shape, 0, port, tmp_path)
    writer = EpisodeWriter([f"127.0.0.1:{port}"], shape)
    write_steps(writer, 5)
    server.checkpoint()
    write_steps(writer, 4)
    newest = server.checkpoint()
    writer.close()
    server.stop()
    chunks = newest / "chunks.tfrecord"
    chunks.write_bytes(chunks.read_bytes()[:100])  # Reverb itself loads this as an empty table, without a word
    restored = ShardServer(config, shape, 0, other_port, tmp_path)
    assert restored.restored_size == 5
    assert "is corrupt" in caplog.text
    restored.stop()


def write_steps(writer: EpisodeWriter, steps: int) -> None:
    """An episode of so many steps, by the writer alone."""
    writer.begin(0, frame_of(1)[None], ACTOR, INCARNATION, env=0)
    for t in range(steps):
        writer.append(Transition(0, 1.0, t == steps - 1, frame_of(t + 2), VERSION))
    writer.end()
    writer.close_episode(TIMEOUT)

"""What is known to go wrong with Reverb, against two real shards, programs of their own as everywhere."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.collector import Collector
from actors.stream import Identity, TransitionStream, WarmUp
from bench.sinks import into
from learner.batches import BatchSource
from learner.schedules import Horizon
from sbrl import config as configs
from sbrl.config import Config
from sbrl.envs.make import make_envs, make_spec
from sbrl.ports import free_ports
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import TABLE, Items, ItemShape
from sbrl.replay.probe import ShardProbe
from sbrl.replay.sampler import ShardSampler
from sbrl.replay.segments import Transition
from sbrl.replay.writer import BlockedError, EpisodeWriter
from sbrl.sharding import error_buffer, shard_limits
from tests.chaos.grid import RandomPolicy, start_replay, wait_for
from tests.chaos.markers import ENV_ID

TIMEOUT = 60.0
WARM_BATCHES = 50
pytestmark = pytest.mark.timeout(300)


class Replay:
    """Two shards of prioritized replay, fresh for one test."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports("127.0.0.1", 3)
        tree = configs.load(
            overrides=[
                f"env.id={ENV_ID}",
                "run.env_steps=100000",
                "replay.min_size=100",
                "replay.checkpoint_interval_seconds=1e6",
            ]
        ).model_dump(mode="json")
        tree["network"]["coordinator_address"] = f"127.0.0.1:{ports[0]}"
        tree["network"]["replay_addresses"] = [f"127.0.0.1:{port}" for port in ports[1:]]
        self.config: Config = configs.build(tree)
        path = folder / "run.yaml"
        path.write_text(configs.dump(self.config), encoding="utf-8")
        self.processes = start_replay(path, 2)
        self.addresses = self.config.network.replay_addresses
        self.clients = [reverb.Client(address) for address in self.addresses]
        self.shape = ItemShape.of(make_spec(self.config.env), self.config.agent.stored_steps)

    def counts(self, shard: int) -> tuple[int, int]:
        """(inserted, sampled)."""
        limiter = self.clients[shard].server_info(timeout=10)[TABLE].rate_limiter_info
        return limiter.insert_stats.completed, limiter.sample_stats.completed

    def shard_process(self, shard: int) -> subprocess.Popen[bytes]:
        return self.processes[1 + shard]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    made = Replay(tmp_path)
    try:
        wait_for(made.clients)
        yield made
    finally:
        made.close()


def write_until_blocked(replay: Replay, shard: int, most: int) -> tuple[EpisodeWriter, int]:
    """Writes steps of one endless episode until the limiter holds them back; (the writer, items confirmed)."""
    writer = EpisodeWriter(replay.addresses, replay.shape)
    frame = np.zeros(replay.shape.frame_shape, np.float32)
    writer.begin(shard, frame[None], 0, 1, 0)
    for _ in range(most):
        writer.append(Transition(0, 0.0, False, frame, 1))
        try:
            writer.flush(0, timeout_seconds=2.0)
        except BlockedError:
            return writer, replay.counts(shard)[0]
    raise AssertionError(f"not blocked after {most} steps")


def allocated_blocks() -> int:
    """Of memory, by Python's own allocator."""
    gc.collect()
    return sys.getallocatedblocks()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_filled_to_the_brim_first_and_sampled_then_both_sides_go_on(replay: Replay) -> None:
    """Too narrow a buffer lets inserts and samples wait for each other for ever; and what a sampler holds is bounded."""
    config = replay.config
    limits, batch = shard_limits(config, 0), config.learner.batch_size
    room = limits.min_size + int(error_buffer(config) / limits.samples_per_insert)
    writer, inserted = write_until_blocked(replay, 0, most=4 * room)
    assert abs(inserted - room) <= 1
    served: queue.Queue[Items] = queue.Queue(maxsize=1)
    sampler = ShardSampler(replay.addresses[0], 0, replay.shape, batch, into(served))
    sampler.start()
    try:
        # Nobody takes a batch: one waits in the queue, one at its door, and no more than one is on its way.
        eventually(served.full)
        time.sleep(1.0)
        assert replay.counts(0)[1] <= 4 * batch
        taken = 0
        frame = np.zeros(replay.shape.frame_shape, np.float32)
        allocated = 0
        for _ in range(200):
            served.get(timeout=TIMEOUT)
            taken += 1
            if taken == WARM_BATCHES:
                allocated = allocated_blocks()
            for _ in range(round(batch / limits.samples_per_insert)):  # what the batch was worth
                writer.append(Transition(0, 0.0, False, frame, 1))
            writer.flush(8, TIMEOUT)
        # TensorFlow leaks each tensor made outside of a session, which is ten in a batch; other threads allocate some, too.
        assert (allocated_blocks() - allocated) / (taken - WARM_BATCHES) < 6
        inserted, sampled = replay.counts(0)
        assert taken * batch <= sampled <= (taken + 4) * batch
        error = inserted * limits.samples_per_insert - sampled
        assert limits.min_diff <= error <= limits.max_diff
    finally:
        sampler.stop()
        writer.close()


def test_an_actor_that_is_held_back_holds_a_bounded_number_of_items(replay: Replay) -> None:
    """`append` and `create_item` never block: without a flush the client would grow until it is killed."""
    config = replay.config
    envs = make_envs(config.env, 1, seed=3)
    probes = [ShardProbe(address, shard) for shard, address in enumerate(replay.addresses)]
    for probe in probes:
        probe.start()
    stop = threading.Event()
    stream = TransitionStream(
        EpisodeWriter(replay.addresses, replay.shape),
        probes,
        Identity(0, 1, 0),
        config.actors.max_in_flight_items,
        stop,
        drain_seconds=2.0,
        warm_up=WarmUp(10, lambda: False),
    )
    collector = Collector(envs, RandomPolicy(0), [stream], lambda episode: None)

    def collect() -> None:
        while not stop.is_set():
            collector.step(0.0, 1)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        eventually(lambda: collector.env_steps > config.min_replay_size and settled(lambda: collector.env_steps))
        confirmed = sum(replay.counts(shard)[0] for shard in (0, 1))
        assert collector.env_steps - confirmed <= config.actors.max_in_flight_items + config.agent.stored_steps + 1
        assert stream.in_flight <= config.actors.max_in_flight_items + config.agent.stored_steps
    finally:
        stop.set()
        thread.join(TIMEOUT)
        stream.close()
        for probe in probes:
            probe.stop()
    assert not thread.is_alive()


def settled(read: Callable[[], int]) -> bool:
    """Whether a number stays what it is for two seconds."""
    before = read()
    time.sleep(2.0)
    return read() == before


def test_a_shard_that_hangs_holds_nobody_up_and_is_taken_up_again(replay: Replay) -> None:
    """Its sampler would retry for ever without a word, and a mix in lockstep would wait for it."""
    writers = [write_until_blocked(replay, shard, most=400)[0] for shard in (0, 1)]
    config = replay.config
    source = BatchSource(replay.addresses, replay.shape, config.agent, config.learner.batch_size)
    source.start()
    horizon = Horizon(config.agent.n_step, config.agent.discount)
    frame = np.zeros(replay.shape.frame_shape, np.float32)

    def shards_of(batches: int, served: int | None = None) -> set[int]:
        """Those that serve so many batches; each is made good by what it was worth. `served`: by whom the last one was."""
        seen = set()
        for _ in range(batches):
            if served is not None:
                for _ in range(round(config.learner.batch_size / config.samples_per_insert)):
                    writers[served].append(Transition(0, 0.0, False, frame, 1))
                writers[served].flush(0, TIMEOUT)
            got = source.get(TIMEOUT, horizon)
            assert got is not None
            served = got.items.shard
            seen.add(served)
        return seen

    try:
        eventually(lambda: source.shards_up == 2)
        assert shards_of(20) == {0, 1}
        os.kill(replay.shard_process(0).pid, signal.SIGSTOP)
        eventually(lambda: source.shards_up == 1)
        while source.get(1.0, horizon) is not None:  # what was on its way
            pass
        assert shards_of(30, served=1) == {1}
        os.kill(replay.shard_process(0).pid, signal.SIGCONT)
        eventually(lambda: source.shards_up == 2)
        deadline = time.monotonic() + TIMEOUT
        while 0 not in shards_of(4, served=1):
            assert time.monotonic() < deadline, "the shard that hung is not sampled any more"
    finally:
        os.kill(replay.shard_process(0).pid, signal.SIGCONT)
        source.stop()
        for writer in writers:
            writer.close()


def test_priorities_go_to_the_shard_of_origin_and_a_bad_one_is_refused_and_counted(replay: Replay) -> None:
    """A key sent to the wrong shard is ignored without an error, and a negative one is one."""
    config, batch = replay.config, replay.config.learner.batch_size
    writers = [write_until_blocked(replay, shard, most=400)[0] for shard in (0, 1)]
    source = BatchSource(replay.addresses, replay.shape, config.agent, batch)
    source.start()
    horizon = Horizon(config.agent.n_step, config.agent.discount)
    try:
        eventually(lambda: source.shards_up == 2)
        got: dict[int, Items] = {}
        while len(got) < 2:
            found = source.get(TIMEOUT, horizon)
            assert found is not None
            got.setdefault(found.items.shard, found.items)
        # One item of shard 1 gets all the weight there is; shard 0 must not hear of it.
        items = got[1]
        priorities = np.full(batch, 1e-9)
        priorities[0] = 1e9
        source.update_priorities(items, priorities)
        chosen = [0, 0]
        deadline = time.monotonic() + TIMEOUT
        while chosen[1] <= batch:
            assert time.monotonic() < deadline, "the priorities have not arrived"
            found = source.get(0.5, horizon)
            if found is not None:
                chosen[found.items.shard] += int((found.items.key == items.key[0]).sum())
                continue
            # All was served before the priorities had arrived, which go beside the batches: let there be more to serve.
            for writer in writers:
                for _ in range(batch):
                    writer.append(Transition(0, 0.0, False, np.zeros(replay.shape.frame_shape, np.float32), 1))
                with contextlib.suppress(BlockedError):  # the batches were only late
                    writer.flush(0, 0.5)
        assert chosen[0] == 0
        before = source.priorities_dropped["refused"]
        source.update_priorities(got[0], np.full(batch, -1.0))
        eventually(lambda: source.priorities_dropped["refused"] == before + batch)
    finally:
        source.stop()
        for writer in writers:
            writer.close()


def test_tensorflow_sees_no_gpu() -> None:
    assert tf.config.get_visible_devices("GPU") == []

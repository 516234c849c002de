"""Transitions through the actor's loop, real shards and the intake: the memory agrees with a plain reference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.memory.priorities import Draw
from learner.memory.replay import ReplayMemory
from learner.replay import Replay
from sbrl.config import load
from sbrl.replay.items import Transitions
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.segments import Segment, SegmentShape
from sbrl.replay.shard import ShardServer
from sbrl.rpc.ports import free_ports
from tests.integration.segment_shards import TIMEOUT, collect, stop_reading, wait_for
from tests.scripted_episodes import Episode, check, reference, terminals
from tests.scripted_play import VERSION, scripts, spec_of

DISCOUNT = 0.9
NUM_SHARDS, N_MAX = 2, 10
Steps = dict[tuple[int, int, int], tuple[int, int]]  # (incarnation, environment, number of the step): slot and anchor


def note_steps(memory: ReplayMemory) -> Steps:
    """Notes where the memory puts each step from now on."""
    steps: Steps = {}

    def note(slot: int, segment: Segment) -> int:
        for k, anchor in enumerate(np.flatnonzero(segment.valid(memory.shape))):
            name = (segment.of.incarnation, segment.of.env, segment.first + k)
            assert name not in steps, f"step {name} is in the memory twice"
            steps[name] = slot, int(anchor)
        return slot

    append, prepend = memory.append, memory.prepend
    memory.append = lambda segment: note(append(segment), segment)  # type: ignore[method-assign, assignment, misc]
    memory.prepend = lambda segment: note(prepend(segment), segment)  # type: ignore[method-assign]
    return steps


class Learner:
    """A learner's replay without the training."""

    def __init__(self, addresses: list[str], stack: int, term: int) -> None:
        self.config = load(
            overrides=[
                *("env.id=CartPole-v1", "run.env_steps=1000", f"replay.num_shards={NUM_SHARDS}", f"agent.n_max={N_MAX}"),
                *("agent.n_step=1", "replay.ahead=1e6", "replay.capacity=40000", "replay.min_size=10"),
                f"network.replay_addresses=[{','.join(addresses)}]",
            ]
        )
        self.replay = Replay.of(self.config, spec_of(stack), torch.device("cpu"), "cached", None, term)
        assert isinstance(self.replay.memory, ReplayMemory)
        self.memory = self.replay.memory
        self.steps = note_steps(self.memory)
        self.replay.start()

    def receive(self, total: int) -> None:
        def all_is_here() -> bool:
            self.replay.intake.take()
            return self.replay.ratio.received >= total

        wait_for(all_is_here, "transitions are missing")
        assert self.replay.ratio.received == total == self.replay.receipts.total.received
        assert self.replay.receipts.total.lost == self.replay.receipts.total.recovered  # logs are read newest first

    def transitions(self, incarnation: int, env: int, n_step: int) -> Transitions:
        """Those of an environment, in order."""
        places = [self.steps[name] for name in sorted(self.steps) if name[:2] == (incarnation, env)]
        slot, anchor = (torch.tensor(column) for column in zip(*places, strict=True))
        generation = self.memory._priorities.generation[slot]
        some = torch.ones(len(places), dtype=torch.float64)
        sample = Draw(slot, anchor, generation, some)
        assert set(self.memory.weights_version(sample).tolist()) == {VERSION}
        return Transitions(*(column.numpy() for column in self.memory.gather(sample, n_step, DISCOUNT)[:5]))


class Run:
    """Real shards and a learner that has read them from the beginning."""

    def __init__(self, directory: Path, stack: int) -> None:
        ports = free_ports("127.0.0.1", NUM_SHARDS)
        self.stack, self.addresses = stack, [f"127.0.0.1:{port}" for port in ports]
        self.learner = Learner(self.addresses, stack, term=1)
        spec = spec_of(stack)
        self.servers = [
            ShardServer(self.learner.config, spec, shard, "cached", port, directory / str(shard))
            for shard, port in enumerate(ports)
        ]
        self.shape = SegmentShape.of(spec, N_MAX)
        self.probes = [QueueProbe(address, shard) for shard, address in enumerate(self.addresses)]
        for probe in self.probes:
            probe.start()
            assert probe.wait_answer(TIMEOUT)
        self.played: dict[int, list[list[Episode]]] = {}  # by incarnation, by environment
        self._incarnations = itertools.count(1)
        self.total = 0

    def play(self, learner: Learner, patterns: Sequence[Sequence[tuple[bool, ...]]], steps: int) -> int:
        """Plays while `learner` receives, as queues hold few segments. Returns the incarnation of the actor that has played."""
        incarnation = next(self._incarnations)
        script = self.played[incarnation] = scripts(patterns, steps)
        self.total += steps * len(script)
        with ThreadPoolExecutor(1) as actor:
            played = actor.submit(collect, script, steps, self.addresses, self.shape, self.probes, incarnation)
            learner.receive(self.total)
            played.result(TIMEOUT)
        return incarnation

    def check(self, learner: Learner, incarnation: int) -> None:
        for env, episodes in enumerate(self.played[incarnation]):
            for n_step in range(1, N_MAX + 1):
                expected = [one for episode in episodes for one in reference(episode, self.stack, n_step, DISCOUNT)]
                check(learner.transitions(incarnation, env, n_step), expected)

    def stop(self) -> None:
        self.learner.replay.intake.close()
        stop_reading(self.learner.replay.readers, self.shape)
        for probe in self.probes:
            probe.stop()
        for server in self.servers:
            server.stop()


@pytest.fixture(scope="module", params=[1, 4], ids=lambda stack: f"stack{stack}")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = Run(tmp_path_factory.mktemp("shards"), request.param)
    yield made
    made.stop()


@settings(max_examples=20)
@given(
    patterns=st.lists(st.lists(terminals(longest=40), min_size=1, max_size=3), min_size=1, max_size=3),
    steps=st.integers(1, 80),
)
def test_the_memory_has_what_the_reference_computes(run: Run, patterns: list[list[tuple[bool, ...]]], steps: int) -> None:
    """Starts, ends, truncations, lives lost and cuts, in episodes shorter and longer than a segment, for every n up to 10."""
    incarnation = run.play(run.learner, patterns, steps)
    run.check(run.learner, incarnation)


def test_a_learner_that_begins_anew_has_the_same_from_the_logs(run: Run) -> None:
    """Also for steps that arrive meanwhile: each one once, from the queue or the log."""
    run.play(run.learner, [[(False,) * 50 + (True,)], [(False,) * 9]], 70)
    second = Learner(run.addresses, run.stack, term=2)
    run.learner.replay.stop()
    try:
        incarnation = run.play(second, [[(True,)], [(False, True, True)]], 40)
        for reader in second.replay.readers:
            assert reader.filled.wait(TIMEOUT)
        assert second.memory.size == run.total == len(second.steps)
        for one in range(1, incarnation + 1):
            run.check(second, one)
    finally:
        second.replay.stop()

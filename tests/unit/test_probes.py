"""What diagnostics look at: the newest transitions, ones from all of the memory, and ones that training never sees."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from learner import probes
from learner.memory.replay import ReplayMemory
from learner.probes import MemoryProbes
from sbrl import config
from sbrl.networks.build import build_network
from single_process import held_out
from single_process.held_out import HeldOut
from tests.memories import CPU, make_memory, numbered, shape_of


def names(memory: ReplayMemory, sample: object) -> list[tuple[int, int]]:
    """(the segment's number, anchor) of each transition; see `tests.memories.numbered`."""
    return [
        (int(memory._storage.frame[slot, 0, 0]), int(anchor))
        for slot, anchor in zip(sample.slot, sample.anchor, strict=True)  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("recency_horizon", [None, 10])
def test_the_newest_are_those_of_the_newest_segments_round_the_ring(recency_horizon: int | None) -> None:
    memory = ReplayMemory(shape_of(), 20, CPU, 0, prioritized=False, recency_horizon=recency_horizon)
    for number in range(8):  # five slots of four
        memory.append(numbered(number, 4), np.array([True, number % 2 == 0, True, True]))
    assert names(memory, memory.newest(3)) == [(7, 0), (7, 2), (7, 3)]
    assert names(memory, memory.newest(5)) == [(7, 0), (7, 2), (7, 3), (6, 0), (6, 1)]
    assert sorted(names(memory, memory.newest(100))) == sorted(
        (number, anchor) for number in range(3, 8) for anchor in range(4) if number % 2 == 0 or anchor != 1
    )


def test_all_transitions_are_equally_likely_whatever_their_priorities() -> None:
    memory = make_memory(shape_of(), capacity=20)
    for number in range(3):
        memory.append(numbered(number, 4), np.array([True, False, True, True]))
    sample = memory.sample(8)
    memory.set_priorities(sample, torch.full((8,), 1000.0))
    before = memory.generator.get_state()
    found = Counter(names(memory, memory.spread(9_000, torch.Generator().manual_seed(0))))
    assert set(found) == {(number, anchor) for number in range(3) for anchor in (0, 2, 3)}
    assert all(abs(count - 1000) < 150 for count in found.values())  # five standard deviations
    assert torch.equal(memory.generator.get_state(), before)


def test_a_small_memory_has_no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PROBE_TRANSITIONS", 2)
    memory, looked = make_memory(shape_of(), capacity=100), config.build({"agent": {"n_step": 1}})
    look = MemoryProbes(memory, looked, seed=0)
    memory.append(numbered(0, 4), np.array([True, True, True, True]))
    assert look(0) == {}
    memory.append(numbered(1, 4), np.array([True, True, True, True]))
    found = look(0)
    assert {name: len(batch.a_tm1) for name, batch in found.items()} == {"newest": 2, "uniform": 2}
    assert found["newest"].s_tm1[:, 0, 0].tolist() == [1, 1]


def test_what_is_held_out_is_collected_anew_for_each_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "STEPS", 30)
    monkeypatch.setattr(probes, "PROBE_TRANSITIONS", 16)
    made = config.load(preset="classic-qr-dqn", overrides=["env.reward_noise=0.5", "agent.hidden_size=16"])
    one, same = HeldOut(made), HeldOut(made)
    try:
        weights = build_network(made.agent, one._envs.spec).state_dict()
        for many in (one, same):
            torch.manual_seed(0)
            many.collect(weights, env_steps=0)
            many.collect(weights, env_steps=10_000)
        first, second = one.probe(0), same.probe(0)
        assert torch.equal(first.s_tm1, second.s_tm1)
        assert torch.equal(first.r_t, second.r_t)
        assert len(first.a_tm1) == 16
        assert 30 < one._probes._memory.size <= 60
        assert not (first.r_t % 1 == 0).any(), "rewards are with noise, as training's are"
    finally:
        one.close()
        same.close()

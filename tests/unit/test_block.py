"""Blocks of updates equal single updates, and a graph that is captured once and replayed, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from learner import block
from learner.algorithm.schedules import Horizon
from learner.records import UpdateResult
from sbrl.networks.noisy import NoisyLinear, scale_noise
from tests.blocks import AGENTS, VECTOR, Training, make_config, make_training
from tests.graph_tape import Taped

UPDATES = 45  # three resets, five copies of the target, a measurement of the diagnostics, and a partial block


def differences(one: Training, other: Training) -> list[str]:
    mine, theirs = one.everything(), other.everything()
    assert mine.keys() == theirs.keys()
    return [name for name, tensor in mine.items() if not torch.equal(tensor, theirs[name])]


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.algorithm.diagnostics.NUM_STATES", 16)
    monkeypatch.setattr("learner.algorithm.diagnostics.WINDOW", 3)
    monkeypatch.setattr(block, "BLOCK_SECONDS", 1e9)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_block_is_so_many_single_updates(agent: str) -> None:
    spec, _ = AGENTS[agent]
    settings = make_config(agent, diagnostics_period=20)
    single, blocks = make_training(settings, spec), make_training(settings, spec)
    torch.manual_seed(3)
    single.run(UPDATES, size=1)
    torch.manual_seed(3)
    blocks.run(UPDATES, size=16)
    assert len(single.losses) == UPDATES
    assert differences(single, blocks) == []
    assert single.step.diagnostics.readings == blocks.step.diagnostics.readings is not None


@pytest.mark.parametrize("agent", AGENTS)
def test_an_update_can_be_captured_once_and_replayed(agent: str) -> None:
    """Between blocks, new segments evict those that the graph has read."""
    spec, _ = AGENTS[agent]
    settings = make_config(agent, diagnostics_period=20)
    eager, captured = make_training(settings, spec), make_training(settings, spec, capture=Taped)
    for training in (eager, captured):
        torch.manual_seed(3)
        for _ in range(3):
            training.run(UPDATES // 3, size=16)
            training.memory.append(next(training.segments))
    assert differences(eager, captured) == []


def test_blocks_end_at_edges_and_never_late() -> None:
    settings = make_config("qr-dqn", reset_period=20)  # and the target is copied every 7 updates
    training = make_training(settings, VECTOR)
    ends = []
    while training.step.updates < 40:
        training.blocks.run(40 - training.step.updates)
        ends.append(training.step.updates)
    assert ends == [7, 14, 20, 21, 28, 35, 40]


def test_a_block_of_slow_updates_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "BLOCK_SECONDS", 0.0)
    training = make_training(make_config("m-dqn"), VECTOR)
    assert training.blocks.run(16).updates == 1


# Errors that a capture makes silently. Each test breaks the update in one way, and the tape shows it, so the tests above can
# fail.


def captured_alike(spoil: Callable[[Training], None], agent: str, updates: int = 12) -> bool:
    spec, _ = AGENTS[agent]
    trainings = [make_training(make_config(agent), spec, capture) for capture in (lambda update: update, Taped)]
    for training in trainings:
        spoil(training)
        torch.manual_seed(3)
        training.run(updates, size=16)
    return differences(*trainings) == []


def test_a_number_of_python_is_baked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is why the annealed horizon is a tensor."""

    def spoil(training: Training) -> None:
        blocks = training.blocks
        monkeypatch.setattr(blocks._table, "next", lambda: blocks._horizons.at(len(training.losses)))

    assert captured_alike(lambda training: None, "everything")
    assert not captured_alike(spoil, "everything")


def test_a_rebound_buffer_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is why noise is drawn into existing buffers. A graph would keep using the old ones, which are freed."""

    def rebind(layer: NoisyLinear) -> None:
        layer.noise_in, layer.noise_out = (scale_noise(torch.randn_like(old)) for old in (layer.noise_in, layer.noise_out))

    assert captured_alike(lambda training: None, "full-rainbow")
    monkeypatch.setattr(NoisyLinear, "resample", rebind)
    with pytest.raises(RuntimeError, match="a tensor that the tape reads is gone"):
        captured_alike(lambda training: None, "full-rainbow")


def test_a_counter_of_the_host_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is why the device counts the position in the table of horizons."""

    def spoil(training: Training) -> None:
        table, position = training.blocks._table, iter(range(1000))

        def following() -> Horizon:
            number = next(position)
            return Horizon(table._n_step[number % 16], table._discount[number % 16])  # type: ignore[arg-type]

        monkeypatch.setattr(table, "next", following)

    assert not captured_alike(spoil, "everything")


def test_memory_that_is_freed_between_replays_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(training: Training) -> None:
        train = training.step.train
        temporary = [torch.ones(4)]

        def spoilt(batch: object) -> UpdateResult:
            ones = temporary.pop() if temporary else torch.ones(4)
            return train(batch._replace(r_t=batch.r_t * ones))  # type: ignore[attr-defined]

        monkeypatch.setattr(training.step, "train", spoilt)

    with pytest.raises(RuntimeError, match="a tensor that the tape reads is gone"):
        captured_alike(spoil, "qr-dqn")


def test_a_number_read_back_cannot_be_captured() -> None:
    with pytest.raises(RuntimeError, match="read back to the host"):
        Taped(lambda: torch.ones(3).sum().item())()

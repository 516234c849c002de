"""The number of threads for an update."""

from __future__ import annotations

import logging

import pytest
import torch

from learner.algorithm.update import UpdateStep
from learner.threads import blank_batch, candidates, fewest_of_the_fast, settle_threads
from sbrl import config
from tests.blocks import AGENTS, VECTOR, make_config


@pytest.mark.parametrize(("cores", "tried"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (16, [1, 2, 4, 8, 16])])
def test_powers_of_two_are_tried(cores: int, tried: list[int]) -> None:
    assert candidates(cores) == tried


@pytest.mark.parametrize(
    ("milliseconds", "best"), [({1: 10.0, 2: 9.5, 4: 9.4}, 1), ({1: 10.0, 2: 6.0, 4: 5.6}, 2), ({1: 10.0, 2: 12.0}, 1)]
)
def test_the_fewest_that_are_about_the_fastest(milliseconds: dict[int, float], best: int) -> None:
    assert fewest_of_the_fast(milliseconds) == best


def test_auto_measures_and_a_number_stands(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    measured = iter([12.0, 5.0])
    monkeypatch.setattr("learner.threads._measure", lambda settings, spec: next(measured))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    set_to: list[int] = []
    monkeypatch.setattr("learner.threads.configure_torch", set_to.append)
    with caplog.at_level(logging.INFO):
        assert settle_threads(make_config("qr-dqn", num_threads="auto"), VECTOR) == 2
    assert "1: 12.00 ms, 2: 5.00 ms; 2 it is" in caplog.text
    assert set_to[-1] == 2
    assert settle_threads(make_config("qr-dqn", num_threads=3), VECTOR) == 3
    assert set_to[-1] == 3


@pytest.mark.parametrize("agent", AGENTS)
def test_the_batch_that_is_measured_on_can_be_trained_on(agent: str) -> None:
    spec, _ = AGENTS[agent]
    settings = make_config(agent)
    step = UpdateStep(settings, spec, torch.device("cpu"))
    assert torch.isfinite(step.train(blank_batch(settings, spec)).loss)


@pytest.mark.parametrize("agent", AGENTS)
def test_bfloat16_trains_float32_weights_nearly_alike(agent: str) -> None:
    """Losses and priorities are computed in float32. Only the networks' outputs are a little coarser."""
    spec, _ = AGENTS[agent]
    results = []
    for precision in ("float32", "bfloat16"):
        settings = config.build(make_config(agent).model_dump(mode="json"), {"learner": {"precision": precision}})
        torch.manual_seed(5)
        step = UpdateStep(settings, spec, torch.device("cpu"))
        torch.manual_seed(6)
        batch = blank_batch(settings, spec)
        results.append(step.train(batch))
        assert {tensor.dtype for tensor in step.state().online.values()} == {torch.float32}
        assert (results[-1].loss.dtype, results[-1].priorities.dtype) == (torch.float32, torch.float64)
    exact, coarse = results
    assert not torch.equal(exact.loss, coarse.loss)
    torch.testing.assert_close(exact.loss, coarse.loss, rtol=0.05, atol=0.02)

"""The captured update on a GPU compared with the eager one on the same GPU, and that with a CPU's."""

from __future__ import annotations

import pytest
import torch

from learner import block
from tests.blocks import AGENTS, Training, make_config, make_training

pytestmark = pytest.mark.timeout(600)
UPDATES = 45
# Kernels that add in no fixed order (scatter, some convolutions' gradients) differ in the last bits, and training spreads it.
RTOL, ATOL = 1e-3, 1e-5


@pytest.fixture(autouse=True)
def _whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "BLOCK_SECONDS", 1e9)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def trained(agent: str, captured: bool, compile: str = "off") -> Training:
    spec, _ = AGENTS[agent]
    settings = make_config(agent, device="cuda", compile=compile)
    training = make_training(settings, spec, capture=None if captured else lambda update: update)
    torch.cuda.manual_seed(3)
    for _ in range(3):
        training.run(UPDATES // 3, size=16)
        training.memory.append(next(training.segments))
    torch.cuda.synchronize()
    return training


@pytest.mark.parametrize("agent", AGENTS)
def test_replays_are_the_eager_update(agent: str) -> None:
    """The same random numbers, resets, copies and new segments: same losses, weights and priorities, within rounding."""
    eager, captured = trained(agent, captured=False), trained(agent, captured=True)
    mine, theirs = eager.everything(), captured.everything()
    for name in mine:
        if name not in ("random", "sampling"):  # states of the CPU's generator, and of CUDA's, which a graph hides
            torch.testing.assert_close(theirs[name], mine[name], rtol=RTOL, atol=ATOL)


def test_a_new_segment_waits_for_the_block_that_reads_its_rows() -> None:
    """The segment is appended while a block of replays still runs. That block trains only on the earlier content."""
    losses = []
    for late in (False, True):
        training = make_training(make_config("everything", device="cuda"), AGENTS["everything"][0], capture=None)
        torch.cuda.manual_seed(3)
        training.run(8, size=8)  # captured by now
        training.run(16, size=16)
        if not late:
            torch.cuda.synchronize()
        for _ in range(6):  # all that the memory holds is overwritten
            training.memory.append(next(training.segments))
        torch.cuda.synchronize()
        losses.append(torch.stack(training.losses))
    torch.testing.assert_close(losses[0], losses[1], rtol=RTOL, atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["qr-dqn", "full-rainbow"])
def test_a_compiled_graph_trains_alike(agent: str) -> None:
    eager, compiled = trained(agent, captured=False), trained(agent, captured=True, compile="default")
    for one, other in zip(eager.losses[:10], compiled.losses[:10], strict=True):
        torch.testing.assert_close(other, one, rtol=0.02, atol=1e-3)

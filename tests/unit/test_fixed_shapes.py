"""Shapes in an update and its backward pass depend on no value, and torch.compile compiles its parts whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from learner.algorithm import compilation
from tests.blocks import AGENTS, make_config, make_training

pytestmark = pytest.mark.timeout(600)
SYNCHRONISING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.item.default}


@pytest.fixture(autouse=True)
def _from_new() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("agent", AGENTS)
def test_every_operation_of_an_update_has_a_fixed_shape(agent: str) -> None:
    """In a trace, unknown shapes would be symbols: there are none."""
    spec, _ = AGENTS[agent]
    training = make_training(make_config(agent), spec)

    def update(_: torch.Tensor) -> torch.Tensor:
        return training.blocks.update()[1].loss

    graph = make_fx(update, _allow_non_fake_inputs=True)(torch.zeros(()))
    operations = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert len(operations) > 100
    assert not SYNCHRONISING & {node.target for node in operations}
    assert any("backward" in str(node.target) for node in operations)
    shapes = [node.meta["tensor_meta"].shape for node in operations if hasattr(node.meta.get("tensor_meta"), "shape")]
    assert len(shapes) > 100
    assert all(type(size) is int for shape in shapes for size in shape)


@pytest.mark.parametrize("agent", [pytest.param(name, marks=[pytest.mark.slow] * (name != "qr-dqn")) for name in AGENTS])
def test_the_parts_of_an_update_compile_without_a_break(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw and gather, batch to loss, and new priorities, each as a whole. The backend only traces, so numbers stay equal."""
    spec, _ = AGENTS[agent]
    eager = make_training(make_config(agent), spec)

    def traced(settings: object) -> compilation.Compiler:  # type: ignore[type-arg]
        return lambda part: torch.compile(part, fullgraph=True, dynamic=False, backend="eager")

    monkeypatch.setattr("learner.algorithm.update.make_compiler", traced)
    monkeypatch.setattr("tests.blocks.make_compiler", traced)
    compiled = make_training(make_config(agent), spec)
    for training in (eager, compiled):
        torch.manual_seed(3)
        training.run(3, size=16)
    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
    for one, other in zip(eager.losses, compiled.losses, strict=True):
        assert torch.equal(one, other)

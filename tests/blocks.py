"""Learners that train in blocks from a filled memory, small enough to compare bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from learner.algorithm.compilation import make_compiler
from learner.algorithm.schedules import HorizonSchedule
from learner.algorithm.update import UpdateStep, make_update_step
from learner.batches import MemoryBatches
from learner.block import Blocks, Update
from learner.memory.replay import ReplayMemory
from learner.records import Batch, UpdateResult
from sbrl import config
from sbrl.config import Config
from sbrl.envs.spec import EnvSpec
from sbrl.replay.segments import PADDING, Segment, SegmentShape

FRAMES = EnvSpec(3, (36, 36), np.dtype(np.uint8), 4, "frames", True)
VECTOR = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)

SMALL: dict[str, Any] = {"hidden_size": 16, "num_quantiles": 8, "num_atoms": 11}
AGENTS: dict[str, tuple[EnvSpec, dict[str, Any]]] = {
    "qr-dqn": (VECTOR, {"learner": {"target_update_period": 7}}),
    "full-rainbow": (
        VECTOR,
        {
            "agent": {"algorithm": "c51", "noisy": True, "exploration": "noisy-nets", "dueling": True, "double": True},
            "replay": {"importance_weights": True},
            "learner": {"target_update_period": 5},
        },
    ),
    "m-dqn": (VECTOR, {"agent": {"algorithm": "m-dqn"}, "replay": {"prioritized": False}}),
    "everything": (
        FRAMES,
        {
            "agent": {
                **{"algorithm": "iqn", "dueling": True, "double": True, "noisy": True, "exploration": "noisy-nets"},
                **{"torso": "impala", "width_scale": 0.25, "layer_norm": True, "spr_weight": 5.0, "spr_jumps": 3},
                **{"num_tau_samples": 4, "num_tau_prime_samples": 4, "num_policy_samples": 4, "act_with_target": True},
                **{"n_step_initial": 6, "discount_initial": 0.97, "anneal_updates": 10},
            },
            "learner": {
                **{"target_update_period": 1, "target_update_rate": 0.005, "random_shift": 4, "intensity_jitter": 0.05},
                **{"weight_decay": 0.1, "max_gradient_norm": 10.0, "reset_period": 15},
            },
            "replay": {"importance_weights": True},
        },
    ),
}


def make_config(agent: str, **learner: Any) -> Config:
    _, settings = AGENTS[agent]
    return config.build(
        {"agent": SMALL, "learner": {"batch_size": 4, "diagnostics_period": None}}, settings, {"learner": learner}
    )


def segments_of(shape: SegmentShape, num_actions: int, seed: int = 0) -> Iterator[Segment]:
    """An endless series of segments of noise."""
    generator = np.random.default_rng(seed)
    number = 0
    while True:
        columns = {name: np.zeros(dims, dtype) for name, (dims, dtype) in shape.columns().items()}
        frames = generator.integers(0, 256, columns["frame"].shape)
        columns["frame"][:] = frames if shape.frame_dtype == np.uint8 else frames / 255
        columns["action"][:] = generator.integers(num_actions, size=shape.rows)
        columns["action"][-2:] = PADDING
        columns["reward"][:], columns["discount"][:] = generator.normal(size=shape.rows), 1.0
        columns["discount"][shape.rows // 2] = 0.0
        columns["stream"][0, -1] = number
        number += shape.steps
        yield Segment(**columns)


class Training(NamedTuple):
    step: UpdateStep
    memory: ReplayMemory
    blocks: Blocks
    losses: list[Tensor]  # of each update
    segments: Iterator[Segment]

    def run(self, updates: int, size: int) -> None:
        """Makes this many updates, in blocks of up to `size`."""
        end = self.step.updates + updates
        while self.step.updates < end:
            self.blocks.run(min(size, end - self.step.updates))

    def everything(self) -> dict[str, Tensor]:
        """Everything that updates change."""
        state, priorities = self.step.state(), self.memory._priorities
        parts = {"online": state.online, "target": state.target, "auxiliary": state.auxiliary, "optimizer": state.optimizer}
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        for name in ("values", "sums", "generation", "largest", "outdated", "unusable"):
            tensors[f"priorities/{name}"] = getattr(priorities, name)
        tensors["not_finite"] = self.step.not_finite
        tensors["random"], tensors["sampling"] = torch.get_rng_state(), self.memory.generator.get_state()
        return tensors | {f"loss/{number}": loss for number, loss in enumerate(self.losses)}


def uncaptured(update: Update) -> Update:
    """Eager mode."""
    return update


def make_training(settings: Config, spec: EnvSpec, capture: Callable[[Update], Update] | None = uncaptured) -> Training:
    """Makes a training from the same random state each time. Args: capture: None: the device's default."""
    torch.set_num_threads(1)
    torch.manual_seed(11)
    step = make_update_step(settings, spec)
    shape = SegmentShape.of(spec, settings.agent.stored_steps)
    memory = ReplayMemory(shape, 6 * shape.steps, step.device, seed=1, prioritized=settings.replay.prioritized)
    segments = segments_of(shape, spec.num_actions)
    for _ in range(6):
        memory.append(next(segments))
    batches = MemoryBatches(memory, settings.agent, settings.learner.batch_size, make_compiler(settings.learner))
    losses: list[Tensor] = []
    blocks = Blocks(step, batches, HorizonSchedule.of(settings), size=16, capture=capture)
    update = blocks._update

    def noted() -> Any:
        drawn, result = update()
        losses.append(result.loss.clone())
        return drawn, result

    blocks._update = noted
    seen = step.update

    def noted_seen(batch: Batch) -> UpdateResult:
        result = seen(batch)
        losses.append(result.loss.clone())
        return result

    step.update = noted_seen  # type: ignore[method-assign]
    return Training(step, memory, blocks, losses, segments)

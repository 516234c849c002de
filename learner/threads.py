"""Measures how many CPU threads an update is worth."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping

import torch

from learner.algorithm.update import UpdateStep, configure_torch
from learner.records import Batch, Sequence
from sbrl.config import Config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.devices import find_device

logger = logging.getLogger(__name__)

WARM_UP, UPDATES, MOST_SECONDS = 3, 20, 2.0  # for each number of threads
SLACK = 1.1  # another core is worth more to an actor than a tenth of an update's time


def settle_threads(config: Config, spec: EnvSpec) -> int:
    """Sets torch's threads to learner.num_threads; for `auto`, to the result of a measurement that takes some seconds.

    Draws from torch's global generator, so seed that afterwards.
    """
    asked = config.learner.num_threads
    if asked != "auto":
        configure_torch(asked)
        return asked
    if config.learner.device != "cpu":
        configure_torch(1)
        return 1
    milliseconds = {}
    for threads in candidates(torch.get_num_threads()):
        configure_torch(threads)
        milliseconds[threads] = _measure(config, spec)
    best = fewest_of_the_fast(milliseconds)
    configure_torch(best)
    measured = ", ".join(f"{threads}: {value:.2f} ms" for threads, value in milliseconds.items())
    logger.info("learner.num_threads=auto: an update takes, by threads, %s; %d it is", measured, best)
    return best


def candidates(cores: int) -> list[int]:
    """Powers of two, up to `cores`."""
    return [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]


def fewest_of_the_fast(milliseconds: Mapping[int, float]) -> int:
    """The fewest threads with which an update takes at most SLACK times the shortest time."""
    return min(threads for threads, value in milliseconds.items() if value <= SLACK * min(milliseconds.values()))


def blank_batch(config: Config, spec: EnvSpec) -> Batch:
    """A batch of the config's shapes, on the CPU. An update takes as long on it as on a game's batch."""
    size, agent = config.learner.batch_size, config.agent
    dtype = torch.uint8 if spec.frame_dtype.kind == "u" else torch.float32
    observation = torch.ones((size, *spec.observation_shape), dtype=dtype)
    sequence = None
    if agent.predicts_itself:
        steps = (size, agent.spr_jumps)
        future = observation[:, None].repeat(1, agent.spr_jumps, *[1] * (observation.dim() - 1))
        sequence = Sequence(future, torch.zeros(steps, dtype=torch.int64), torch.ones(steps, dtype=torch.bool))
    return Batch(
        s_tm1=observation,
        a_tm1=torch.zeros(size, dtype=torch.int64),
        r_t=torch.randn(size),
        discount_t=torch.full((size,), 0.97),
        s_t=observation,
        probability=torch.full((size,), 1e-6, dtype=torch.float64),
        sequence=sequence,
    )


def _measure(config: Config, spec: EnvSpec) -> float:
    """The median time of an update in milliseconds."""
    step, batch = UpdateStep(config, spec, find_device("cpu")), blank_batch(config, spec)
    for _ in range(WARM_UP):
        step.train(batch)
    taken: list[float] = []
    while len(taken) < UPDATES and sum(taken) < MOST_SECONDS * 1e3:
        start = time.perf_counter()
        step.train(batch)
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)

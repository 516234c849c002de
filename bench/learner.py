"""Updates per second of the learner, beside the textbook update and the time of its kernels alone.

    python -m bench.learner --batch-sizes 8,32 --agents qr-dqn,rainbow,iqn
    python -m bench.learner --device cuda --agents qr-dqn,rainbow,iqn,bbf --compile default

Blocks of each variant alternate in one process; figures are medians. On a CPU the variants are eager and bfloat16, and the
limit is the time of the network's passes and the optimizer's step alone, in float32. On CUDA they are eager and graph, and the
limit is the time of the graph's kernels in torch's profiler. --compile adds the compiled update. The textbook update is QR-DQN
as in most published PyTorch code: the [B, N, N] loss through autograd, contiguous layout, Adam with its defaults, batches in
memory.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from bench.figures import Figure, Record, machine, save
from bench.memory import random_segment
from bench.peers.client import started
from bench.peers.client import timed as peers_timed
from bench.progress import Tick, silent
from learner.algorithm.compilation import make_compiler
from learner.algorithm.losses.quantile import quantile_targets
from learner.algorithm.losses.selection import select_action
from learner.algorithm.precision import configure_precision
from learner.algorithm.schedules import HorizonSchedule
from learner.algorithm.update import configure_torch, make_update_step
from learner.batches import MemoryBatches
from learner.block import BLOCK_UPDATES, Blocks
from learner.memory.replay import ReplayMemory
from learner.records import Batch
from sbrl import config
from sbrl.config import Config
from sbrl.config.presets import PRESETS
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.network import ValueNetwork
from sbrl.replay.segments import SegmentShape
from sbrl.runtime.program import run_program

SPEC = EnvSpec(num_actions=6, frame_shape=(84, 84), frame_dtype=np.dtype(np.uint8), stack=4, kind="frames", clip_rewards=True)
NUM_BATCHES = 8
PEER_UPDATES = 4  # per turn: turns are short, so that other load on the machine affects all alike
SEGMENTS = 64  # in the memory
NETWORK = "network and Adam alone"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default="qr-dqn", help="names of presets on Atari")
    parser.add_argument("--batch-sizes", default="8,32")
    parser.add_argument("--turns", type=int, default=20, help="blocks of each way")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one update")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="float32", help="float32, tf32 or bfloat16")
    parser.add_argument("--compile", default="off", help="off, default or max-autotune")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learner"), help="where bench.json and bench.png go")
    arguments = parser.parse_args(argv)
    before = machine()
    configure_torch(arguments.threads)
    figures = []
    for agent in arguments.agents.split(","):
        for size in map(int, arguments.batch_sizes.split(",")):
            learner = {"batch_size": size, "device": arguments.device, "precision": arguments.precision}
            settings = config.build(PRESETS[agent].settings, {"learner": {**learner, "diagnostics_period": None}})
            configure_precision(settings.learner)
            found = measure(agent, settings, arguments.turns, arguments.compile)
            figures += found
            print(*(figure.line() for figure in found), sep="\n", flush=True)
    save({"learner": Record(f"python -m bench.learner {' '.join(argv)}", before, figures)}, arguments.out)


def measure(
    agent: str,
    settings: Config,
    turns: int,
    compile_as: str = "off",
    peers: Mapping[str, str] = MappingProxyType({}),
    tick: Tick = silent,
) -> list[Figure]:
    """Updates per second of each variant, measured in turns.

    Args:
        peers: from `bench.peers.client.UPDATES`, for QR-DQN.
    """
    size, device = settings.learner.batch_size, settings.learner.device
    ways: dict[str, Callable[[], object]] = {}
    if device != "cpu":
        ways["eager"] = one_block(settings, eager=True)
    ways["graph" if device != "cpu" else "eager"] = one_block(settings)
    if device == "cpu" and settings.learner.precision == "float32":
        ways["bfloat16"] = one_block(config.build(settings.model_dump(mode="json"), {"learner": {"precision": "bfloat16"}}))
    if compile_as != "off":
        compiled = config.build(settings.model_dump(mode="json"), {"learner": {"compile": compile_as}})
        ways["compiled"] = one_block(compiled)
    ours = list(ways)
    if device == "cpu":
        ways[NETWORK] = network_block(settings)
    if settings.agent.algorithm == "qr-dqn":
        ways["textbook"] = textbook_block(settings)
    rates: dict[str, list[float]] = {name: [] for name in [*ways, *peers]}
    optimizer = {"learning_rate": settings.learner.learning_rate, "adam_epsilon": settings.learner.adam_epsilon}
    with started(peers, {"batch_size": size, **optimizer}, torch.get_num_threads()) as processes:
        for turn in range(-2, turns):  # negative: warm-up
            found = {name: BLOCK_UPDATES / timed(block, device) for name, block in ways.items()}
            found |= peers_timed(processes, PEER_UPDATES)
            tick((turn + 2) / (turns + 2))
            if turn >= 0:
                for name, rate in found.items():
                    rates[name].append(rate)
    limit = rates[NETWORK] if device == "cpu" else [BLOCK_UPDATES / kernel_seconds(ways["graph"])]
    others = {name: rates[name] for name in rates if name not in (*ours, NETWORK)}
    return [
        Figure.of_turns(
            *("learner", f"{agent}, batch {size}, {name}", "updates/s", rates[name]),
            limit_name=NETWORK if device == "cpu" else "kernels alone",
            limit=limit,
            peers=others,
        )
        for name in ours
    ]


def one_block(settings: Config, eager: bool = False) -> Callable[[], object]:
    """A function that makes BLOCK_UPDATES updates from a memory of noise."""
    step = make_update_step(settings, SPEC)
    shape = SegmentShape.of(SPEC, settings.agent.stored_steps)
    memory = ReplayMemory(shape, SEGMENTS * shape.steps, step.device, seed=0, prioritized=settings.replay.prioritized)
    generator = np.random.default_rng(0)
    for _ in range(SEGMENTS):
        memory.append(random_segment(shape, generator))
    batches = MemoryBatches(memory, settings.agent, settings.learner.batch_size, make_compiler(settings.learner))
    blocks = Blocks(step, batches, HorizonSchedule.of(settings), capture=(lambda update: update) if eager else None)

    def run() -> None:
        end = step.updates + BLOCK_UPDATES
        while step.updates < end:  # more than one block if there is an edge in between, or if updates are slow
            blocks.run(end - step.updates)

    return run


def network_block(settings: Config) -> Callable[[], object]:
    """The network's part of an update: the target's forward pass, both passes of the network, and the optimizer's step.

    In float32, without sampling, loss, clipping, target or priorities. So no update in float32 that runs torch's operations one
    by one is faster.
    """
    online = build_network(settings.agent, SPEC, seed=settings.run.seed)  # channels last, as in an update
    target = copy.deepcopy(online)
    optimizer = torch.optim.AdamW(online.parameters(), lr=settings.learner.learning_rate, fused=True)
    batch = random_batch(settings.learner.batch_size, SPEC, seed=0)

    def run() -> None:
        for _ in range(BLOCK_UPDATES):
            with torch.no_grad():
                target(batch.s_t)
            optimizer.zero_grad()
            online(batch.s_tm1).sum().backward()
            optimizer.step()

    return run


def textbook_block(settings: Config) -> Callable[[], object]:
    device = torch.device(settings.learner.device)
    network = build_network(settings.agent, SPEC, seed=settings.run.seed)
    naive = NaiveUpdate(textbook_network(network).to(device), settings)
    batches = [random_batch(settings.learner.batch_size, SPEC, seed) for seed in range(NUM_BATCHES)]

    def run() -> None:
        for index in range(BLOCK_UPDATES):
            naive.update(batches[index % NUM_BATCHES])

    return run


def kernel_seconds(block: Callable[[], object]) -> float:
    """Seconds of a block's kernels on CUDA, without the gaps between them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        block()
        torch.cuda.synchronize()
    seconds = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return seconds if seconds > 0 else math.nan


class NaiveUpdate:
    """The peer: autograd through every pair of quantiles."""

    def __init__(self, online: nn.Module, tree: Config) -> None:
        self._online, self._target = online, copy.deepcopy(online)
        self._kappa = tree.agent.kappa
        self._optimizer = torch.optim.Adam(online.parameters(), lr=tree.learner.learning_rate, eps=tree.learner.adam_epsilon)

    def update(self, batch: Batch) -> None:
        batch = batch.to(next(self._online.parameters()).device)
        with torch.no_grad():
            quantiles_t = self._target(batch.s_t.float() / 255)
            targets = quantile_targets(batch.r_t, batch.discount_t, quantiles_t, quantiles_t.mean(dim=-1))
        quantiles = select_action(self._online(batch.s_tm1.float() / 255), batch.a_tm1)
        tau = (torch.arange(quantiles.shape[1], device=quantiles.device) + 0.5) / quantiles.shape[1]
        u = targets[:, None, :] - quantiles[:, :, None]
        huber = torch.where(u.abs() <= self._kappa, 0.5 * u**2, self._kappa * (u.abs() - 0.5 * self._kappa))
        loss = ((tau[:, None] - (u.detach() < 0).float()).abs() * huber).mean(dim=2).sum(dim=1).mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def textbook_network(network: ValueNetwork) -> nn.Module:
    """The same layers with the same parameters, in torch's default layout."""
    torso = network.torso
    layers = copy.deepcopy(nn.Sequential(torso.encoder, torso.projection, torso.activation, network.head))
    for parameter in layers.parameters():
        parameter.data = parameter.data.contiguous()
    return layers


def random_batch(batch_size: int, spec: EnvSpec, seed: int) -> Batch:
    """Noise of the right shapes. An update takes as long on it as on a game."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, *spec.observation_shape)
    return Batch(
        s_tm1=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        a_tm1=torch.randint(spec.num_actions, (batch_size,), generator=generator),
        r_t=torch.randn(batch_size, generator=generator),
        discount_t=torch.full((batch_size,), 0.99**3),
        s_t=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        probability=torch.full((batch_size,), 1e-6, dtype=torch.float64),
    )


def timed(block: Callable[[], object], device: str) -> float:
    """Seconds for one block, until the device is done."""
    start = time.perf_counter()
    block()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_program(main)

"""Milliseconds per QR-DQN update on Atari frames: SBRL's update step beside the textbook one, interleaved in one process.

    python -m bench.update --threads 1 --batch-size 8 --updates 100

The peer computes the same update as most published PyTorch code does: the [B, N, N] loss through autograd, contiguous layout,
Adam with its defaults. Both train the same network on the same batches.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from learner.losses.quantile import quantile_targets
from learner.losses.selection import select_action
from learner.records import Batch
from learner.update import UpdateStep, configure_torch
from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.devices import find_device
from sbrl.networks.network import ValueNetwork

NUM_BATCHES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one update")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--updates", type=int, default=100, help="timed updates of each")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    configure_torch(arguments.threads)
    device = find_device(arguments.device)

    tree = config.build({"learner": {"batch_size": arguments.batch_size}})
    spec = EnvSpec(
        num_actions=6, frame_shape=(84, 84), frame_dtype=np.dtype(np.uint8), stack=4, kind="frames", clip_rewards=True
    )
    network = build_network(tree.agent, spec, seed=tree.run.seed)
    batches = [random_batch(arguments.batch_size, spec, seed) for seed in range(NUM_BATCHES)]
    naive = NaiveUpdate(textbook_network(network).to(device), tree)
    ours = UpdateStep(tree, spec, device)

    milliseconds: dict[str, list[float]] = {"naive": [], "sbrl": []}
    for index in range(-NUM_BATCHES, arguments.updates):  # negative: warm-up
        batch = batches[index % NUM_BATCHES]
        for name, update in (("naive", naive.update), ("sbrl", ours.update)):
            elapsed = timed(update, batch, device)
            if index >= 0:
                milliseconds[name].append(elapsed)

    medians = {name: statistics.median(values) for name, values in milliseconds.items()}
    print(f"batch size {arguments.batch_size}, {arguments.threads} threads, {device}, {arguments.updates} updates")
    for name, values in milliseconds.items():
        tenth = sorted(values)[len(values) // 10]
        print(f"{name:>6}: median {medians[name]:7.2f} ms, fastest tenth {tenth:7.2f} ms")
    print(f" ratio: {medians['naive'] / medians['sbrl']:.2f}")


class NaiveUpdate:
    """The peer: autograd through every pair of quantiles."""

    def __init__(self, online: nn.Module, tree: config.Config) -> None:
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
    """Noise of the right shapes; an update takes as long on it as on a game."""
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


def timed(update: Callable[[Batch], object], batch: Batch, device: torch.device) -> float:
    """Milliseconds of one update, until the device is done."""
    start = time.perf_counter()
    update(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()

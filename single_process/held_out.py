"""Transitions that training never sees, from an environment and a small memory of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.collector import Collector
from actors.epsilons import epsilons
from actors.reward_noise import make_reward_noise
from learner.memory.replay import ReplayMemory
from learner.probes import MemoryProbes
from learner.records import Batch
from sbrl.config import Config
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.devices import find_device
from sbrl.networks.policy import EpsilonGreedyPolicy
from sbrl.replay.segments import SegmentShape
from sbrl.seeds import held_out_seeds
from single_process.stream import SerialStream, segment_steps

STEPS = 256  # taken before each measurement
CAPACITY = 8_192  # transitions: those of the last 32 measurements


class HeldOut:
    """Validation data for the TD error (Li et al. 2023, "Efficient Deep RL Requires Regulating Overfitting").

    Some is collected before each measurement, with the weights and the exploration that training collects with, so that it is
    as old and as new as what is trained on.
    """

    def __init__(self, config: Config) -> None:
        environment_seed, policy_seed, probe_seed, noise_seed = held_out_seeds(config.run.seed)
        self._config = config
        self._envs = make_envs(config.env, 1, environment_seed)
        network = build_network(config.agent, self._envs.spec, seed=config.run.seed)
        self._policy = EpsilonGreedyPolicy(
            network, self._envs.spec.num_actions, policy_seed, noise=True, precision=config.actors.precision
        )
        shape = SegmentShape.of(self._envs.spec, config.agent.stored_steps)
        shape = shape._replace(steps=segment_steps(CAPACITY, 1, shape.stack, shape.n_max))
        memory = ReplayMemory(shape, CAPACITY, find_device(config.learner.device), seed=0, prioritized=False)
        self._probes = MemoryProbes(memory, config, probe_seed)
        self._collector = Collector(
            self._envs,
            self._policy,
            [SerialStream(memory, 0)],
            on_episode=lambda episode: None,
            add_noise=make_reward_noise(config.env, noise_seed),
        )

    def collect(self, weights: Mapping[str, Any], env_steps: int) -> None:
        """Takes STEPS steps with `weights`, tensors by name, exploring as the run does after `env_steps`.

        Draws from torch's global generator where the network is noisy.

        Raises:
            FinalError: the environment returned what cannot be learned from.
        """
        self._policy.load(weights)
        for _ in range(STEPS):
            self._collector.step(epsilons(self._config, env_steps, actor=0)[:1], weights_version=1)

    def probe(self, updates: int) -> Batch:
        """Some of what was collected, with the horizon of the update after `updates`."""
        return self._probes.uniform(updates)

    def close(self) -> None:
        self._envs.close()

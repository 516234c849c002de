"""A whole run in one process. In turn, it acts once in every environment and makes the updates that are due."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from actors.collector import Collector
from actors.epsilons import epsilons
from actors.reward_noise import make_reward_noise
from learner.algorithm.divergence import divergence
from learner.algorithm.schedules import HorizonSchedule
from learner.algorithm.update import make_update_step
from learner.batches import MemoryBatches
from learner.block import Blocks
from learner.checkpoint import CheckpointStore, SavedLearner, capture_random
from learner.memory.replay import ReplayMemory
from learner.metric_loggers import diagnostic_scalars
from learner.probes import MemoryProbes
from learner.ratio import Ratio, RatioSettings
from learner.records import Batch
from sbrl.config import Config
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, seed_torch
from sbrl.networks.serialization import all_finite, encode
from sbrl.replay.segments import SegmentShape
from sbrl.seeds import probe_seed, reward_noise_seed, single_process_seeds
from sbrl.storage.run_directory import RunDirectory
from sbrl.v1.episodes_pb2 import Episode
from sbrl.v1.fleet_pb2 import (
    LEARNER_STATE_TRAINING,
    LEARNER_STATE_WARMING,
    SAMPLING_CACHED,
    GetStatusResponse,
    LearnerProgress,
    Member,
    ShardProgress,
)
from single_process.held_out import HeldOut
from single_process.stream import SerialStream, segment_steps

RECENT_EPISODES = 100
NOT_FINITE = "the network is not finite"


class SerialRun:
    """A run that is bit-reproducible from run.seed on one machine: one thread, everything in turn, no Reverb."""

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        self._config, self._directory = config, directory
        environment_seed, policy_seed, memory_seed, torch_seed = single_process_seeds(config.run.seed)
        seed_torch(torch_seed)
        envs = make_envs(config.env, config.actors.envs_per_actor, environment_seed)
        network = build_network(config.agent, envs.spec, seed=config.run.seed)
        self._policy = EpsilonGreedyPolicy(
            network, envs.spec.num_actions, policy_seed, noise=True, precision=config.actors.precision
        )
        self._step = make_update_step(config, envs.spec)
        shape = SegmentShape.of(envs.spec, config.agent.stored_steps)
        shape = shape._replace(steps=segment_steps(config.replay.capacity, envs.num_envs, shape.stack, shape.n_max))
        self._memory = ReplayMemory(
            shape,
            config.replay.capacity,
            self._step.device,
            seed=memory_seed,
            prioritized=config.replay.prioritized,
            recency_horizon=config.replay.recency_horizon,
        )
        self._streams = [SerialStream(self._memory, env) for env in range(envs.num_envs)]
        self._acting_weights = self._step.acting_weights()  # the live tensors
        self._policy.load(self._acting_weights)
        batches = MemoryBatches(self._memory, config.agent, config.learner.batch_size)
        self._updates = Blocks(self._step, batches, HorizonSchedule.of(config))
        add_noise = make_reward_noise(config.env, reward_noise_seed(config.run.seed, actor=0, incarnation=1))
        self._collector = Collector(envs, self._policy, self._streams, self._on_episode, add_noise)
        self._probes = MemoryProbes(self._memory, config, probe_seed(config.run.seed))
        self._held_out = None if config.learner.diagnostics_period is None else HeldOut(config)
        self._step.diagnostics.look_at(self._probe)
        self._envs = envs
        self._ratio = Ratio(RatioSettings.of(config))
        self._losses = hashlib.sha256()
        self.episodes: list[Episode] = []

    def run(self, on_progress: Callable[[Callable[[], GetStatusResponse]], None]) -> None:
        """Collects run.env_steps and trains all samples that they allow. Passes `status` to `on_progress` after every round.

        Raises:
            FinalError: an environment's values, a loss or the network are not finite.
        """
        while self._collector.env_steps < self._config.run.env_steps:
            self._collector.step(epsilons(self._config, self._collector.env_steps, actor=0), self._version)
            self._train()
            on_progress(self.status)
        self._collector.drain()
        self._train()

    def _train(self) -> None:
        """Makes the updates that the ratio allows."""
        self._ratio.receive(sum(stream.created for stream in self._streams) - self._ratio.received)
        while self._ratio.updates_due:
            self._update()

    def save(self) -> Path:
        """Writes a checkpoint, which `sbrl eval` and `sbrl play` read.

        Raises:
            FinalError: the checkpoint would hold values that are not finite.
        """
        if not self._step.is_finite():
            self._diverge(NOT_FINITE, batch=None)
        store = CheckpointStore(self._directory.learner_checkpoints, self._config.run.keep_checkpoints)
        counters: dict[str, int | float] = {
            "samples_trained": self._ratio.trained,
            "env_steps": self._collector.env_steps,
            **self._step.diagnostics.counters(),
        }
        return store.save(SavedLearner(self._step.state(), counters, capture_random(), received={}))

    def digests(self) -> dict[str, str]:
        """SHA-256 of all losses, in order, and of the final weights. Equal for two runs with the same seed."""
        return {
            "losses_sha256": self._losses.hexdigest(),
            "weights_sha256": hashlib.sha256(encode(self._step.state().online)).hexdigest(),
        }

    def diagnostics(self) -> dict[str, float]:
        """The last measurement, named as in `learner.metric_loggers`; empty if there was none. Only finite values."""
        readings = self._step.diagnostics.readings
        scalars = {} if readings is None else diagnostic_scalars(readings)
        return {name: value for name, value in scalars.items() if math.isfinite(value)}

    def status(self) -> GetStatusResponse:
        """The run's status, in the form of a distributed run's coordinator."""
        return GetStatusResponse(
            members=[Member(role="replay", name="replay-0", alive=True, gauges={"transitions": self._memory.size})],
            totals={
                "actor.env_steps": self._collector.env_steps,
                "actor.episodes_cut": self._collector.episodes_cut,
            },
            progress=LearnerProgress(
                updates=self._step.updates,
                samples_trained=self._ratio.trained,
                samples_due=self._ratio.due,
                shards=[ShardProgress(received=self._ratio.received, answers=True)],
                state=LEARNER_STATE_TRAINING if self._ratio.due else LEARNER_STATE_WARMING,
                memory_transitions=self._memory.size,
                memory_capacity=self._memory.capacity,
                sampling=SAMPLING_CACHED,
            ),
            recent_episodes=self.episodes[-RECENT_EPISODES:],
            num_episodes=len(self.episodes),
            weights_version=self._version,
        )

    def close(self) -> None:
        self._envs.close()
        if self._held_out is not None:
            self._held_out.close()

    def _probe(self, updates: int) -> dict[str, Batch]:
        """What diagnostics look at, with transitions that are held out."""
        assert self._held_out is not None
        self._held_out.collect(self._acting_weights, self._collector.env_steps)
        return {**self._probes(updates), "held_out": self._held_out.probe(updates)}

    @property
    def _version(self) -> int:
        """The version of the acting weights: published every publish_period updates, as by the learner."""
        return 1 + self._step.updates // self._config.learner.publish_period

    def _update(self) -> None:
        """Makes one update, as the reference that blocks are compared with."""
        trained = self._updates.run(1)
        result, batch = trained.result, trained.drawn.batch
        if not math.isfinite(result.priorities.sum().item() + result.loss.item() + result.spr_loss.item()):
            self._diverge("the loss is not finite", batch)
        self._ratio.train()
        self._losses.update(np.float32(result.loss.item()).tobytes())
        if self._step.updates % self._config.learner.publish_period == 0:
            if not all_finite(self._acting_weights.values()).item():  # the rest of the state is checked before it is saved
                self._diverge(NOT_FINITE, batch)
            self._policy.load(self._acting_weights)

    def _diverge(self, what: str, batch: Batch | None) -> NoReturn:
        raise divergence(what, self._step.updates, batch, self._step.data_is_finite(), self._config)

    def _on_episode(self, episode: Episode) -> None:
        episode.incarnation, episode.env_steps = 1, self._collector.env_steps
        self.episodes.append(episode)

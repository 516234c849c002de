"""A whole run in one process, in turn: act once everywhere, then make the updates that the ratio allows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from actors.collector import Collector, FinishedEpisode
from actors.exploration import epsilons
from learner.batches import to_batch
from learner.checkpoint import CheckpointStore
from learner.divergence import divergence
from learner.records import Batch, LearnerState, capture_random
from learner.schedules import HorizonSchedule
from learner.update import make_update_step
from sbrl.config import Config
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.serialization import encode
from sbrl.policy import EpsilonGreedyPolicy, seed_torch
from sbrl.ports import free_ports
from sbrl.replay.deterministic import ClockSampler
from sbrl.replay.items import ItemShape
from sbrl.replay.table import ShardServer
from sbrl.replay.writer import EpisodeWriter
from sbrl.run_directory import RunDirectory
from sbrl.v1.fleet_pb2 import Episode, GetStatusResponse, Member
from serial.stream import SerialStream

RECENT_EPISODES = 100


class SerialRun:
    """Bit-reproducible from run.seed on one machine: one thread, one shard whose sampling is seeded, everything in turn."""

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        """Builds all parts and starts the in-process Reverb server."""
        self._config, self._directory = config, directory
        environment_seed, policy_seed, sampler_seed, torch_seed = (
            int(state >> 1) for state in np.random.SeedSequence(config.run.seed).generate_state(4)
        )
        seed_torch(torch_seed)
        envs = make_envs(config.env, config.actors.envs_per_actor, environment_seed)
        shape = ItemShape.of(envs.spec, config.agent.stored_steps)
        port = free_ports("127.0.0.1", 1)[0]
        self._server = ShardServer(config, shape, 0, port, directory.replay_checkpoints(0), deterministic=True)
        self._sampler = ClockSampler(self._server, config.replay.capacity, config.replay.prioritized, sampler_seed)
        address = f"127.0.0.1:{port}"
        self._streams = [
            SerialStream(EpisodeWriter([address], shape, self._sampler.insertion_priority), env) for env in range(envs.num_envs)
        ]
        network = build_network(config.agent, envs.spec, seed=config.run.seed)
        self._policy = EpsilonGreedyPolicy(network, envs.spec.num_actions, policy_seed, noise=True)
        self._step = make_update_step(config, envs.spec)
        self._policy.load(self._step.acting_weights())
        self._horizons = HorizonSchedule.of(config)
        self._collector = Collector(envs, self._policy, self._streams, self._on_episode)
        self._envs, self._stack = envs, envs.spec.stack
        self._trained = 0
        self._losses = hashlib.sha256()
        self.episodes: list[Episode] = []

    def run(self, on_progress: Callable[[GetStatusResponse], None]) -> None:
        """Collects run.env_steps and trains all samples they allow; calls `on_progress` after every round.

        Raises:
            FinalError: an environment's values, or what training has come to, are not finite.
        """
        while self._collector.env_steps < self._config.run.env_steps:
            self._collector.step(epsilons(self._config, self._collector.env_steps, actor=0), self._version)
            self._train()
            on_progress(self.status())
        self._collector.drain()
        self._train()

    def _train(self) -> None:
        """Makes the updates that the ratio allows."""
        while self._trained + self._config.learner.batch_size <= self._samples_allowed():
            self._update()

    def save(self) -> Path:
        """Writes a checkpoint, which `sbrl eval` and `sbrl play` read.

        Raises:
            FinalError: it would hold what is not finite.
        """
        self._require_finite(batch=None)
        store = CheckpointStore(self._directory.learner_checkpoints, self._config.run.keep_checkpoints)
        counters: dict[str, int | float] = {
            "samples_trained": self._trained,
            "env_steps": self._collector.env_steps,
            **self._step.diagnostics.counters(),
        }
        return store.save(LearnerState(self._step.state(), counters, capture_random()))

    def digests(self) -> dict[str, str]:
        """SHA-256 of all losses, in order, and of the final weights: equal for two runs with one seed."""
        return {
            "losses_sha256": self._losses.hexdigest(),
            "weights_sha256": hashlib.sha256(encode(self._step.state().online)).hexdigest(),
        }

    def status(self) -> GetStatusResponse:
        """How the run stands, as the coordinator of a distributed run would say it."""
        inserted = sum(stream.created for stream in self._streams)
        size = min(inserted, self._config.replay.capacity)
        return GetStatusResponse(
            members=[Member(role="replay", name="replay-0", alive=True, gauges={"transitions": size})],
            totals={
                "actor.env_steps": self._collector.env_steps,
                "actor.episodes_cut": self._collector.episodes_cut,
                "replay.transitions_inserted": inserted,
                "learner.updates": self._step.updates,
                "learner.samples_trained": self._trained,
            },
            recent_episodes=self.episodes[-RECENT_EPISODES:],
            num_episodes=len(self.episodes),
            weights_version=self._version,
        )

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._envs.close()
        self._server.stop()

    @property
    def _version(self) -> int:
        """The weights acted with: published every publish_period updates, as the learner does."""
        return 1 + self._step.updates // self._config.learner.publish_period

    def _samples_allowed(self) -> float:
        inserted = sum(stream.created for stream in self._streams)
        return self._config.samples_per_insert * (inserted - self._config.min_replay_size)

    def _update(self) -> None:
        items = self._sampler.sample(self._config.learner.batch_size)
        horizon = self._horizons.at(self._step.updates)
        batch = to_batch(items, self._stack, self._config.agent, horizon, shard_share=1.0)
        result = self._step.update(batch)
        priorities = result.priorities.numpy()
        if not math.isfinite(priorities.sum() + result.loss.item() + result.spr_loss.item()):
            self._diverge("the loss is not finite", batch)
        self._sampler.update_priorities(items.key, priorities)
        self._trained += len(items.key)
        self._losses.update(np.float32(result.loss.item()).tobytes())
        if self._step.updates % self._config.learner.publish_period == 0:
            self._require_finite(batch)
            self._policy.load(self._step.acting_weights())

    def _require_finite(self, batch: Batch | None) -> None:
        if not self._step.is_finite():
            self._diverge("the network is not finite", batch)

    def _diverge(self, what: str, batch: Batch | None) -> NoReturn:
        raise divergence(what, self._step.updates, batch, self._step.data_is_finite(), self._config)

    def _on_episode(self, episode: FinishedEpisode) -> None:
        self.episodes.append(
            Episode(
                actor=0,
                incarnation=1,
                env=episode.env,
                number=episode.number,
                episode_return=episode.episode_return,
                length=episode.length,
                truncated=episode.truncated,
                env_steps=self._collector.env_steps,
                weights_version=self._version,
                time=episode.end_time,
            )
        )


def serial_config(config: Config) -> Config:
    """The config of a serial run: one shard, one actor, one thread. Its shard has no limiter: the run itself takes turns."""
    return config.model_copy(
        update={
            "replay": config.replay.model_copy(update={"num_shards": 1}),
            "actors": config.actors.model_copy(update={"num_actors": 1}),
            "learner": config.learner.model_copy(update={"num_threads": 1, "device": "cpu"}),
        }
    )

"""The actor: steps several environments with one batched policy and writes every transition to the replay shards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from actors.loop import ActorLoop
from actors.stream import Identity, TransitionStream, WarmUp
from actors.weights import WeightsFollower
from sbrl.black_box import BlackBox
from sbrl.config import Config
from sbrl.envs.make import make_envs
from sbrl.envs.probe import try_out
from sbrl.episode_log import EpisodeSender, LogClient
from sbrl.fleet_member import FleetMember
from sbrl.lifecycle import RoleRuntime, load_role, role_arguments, run_program
from sbrl.memory import give_back_large_blocks
from sbrl.metrics import ActorMetrics, make_registry
from sbrl.networks.build import build_network
from sbrl.policy import EpsilonGreedyPolicy, seed_torch, use_one_thread
from sbrl.replay.items import ItemShape
from sbrl.replay.probe import ShardProbe
from sbrl.replay.writer import EpisodeWriter
from sbrl.weights import WeightsClient

DRAIN_SECONDS = 10.0  # for all environments of the process together, when it is told to stop


def main(argv: Sequence[str]) -> None:
    arguments, config = load_role(role_arguments("actor", __doc__ or ""), argv)
    try_out(config.env)  # one that does not work is found out before the fleet counts on this actor
    give_back_large_blocks()
    use_one_thread()
    registry = make_registry("actor")
    metrics = ActorMetrics(registry)
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        member = FleetMember.of_role(config.network.coordinator_address, "actor", arguments.name, metrics, runtime)
        black_box = BlackBox.of(arguments.run_dir, arguments.name)
        member.settle_for(black_box.found)
        member.start()
        try:
            if member.wait_joined_or(runtime.stop):
                act(config, runtime, member, metrics, black_box)
        finally:
            member.leave()


def act(config: Config, runtime: RoleRuntime, member: FleetMember, metrics: ActorMetrics, black_box: BlackBox) -> None:
    """Builds the actor's parts, runs its loop and closes what it built, last built first."""
    env_seed, policy_seed = seeds(config.run.seed, member.index, member.incarnation)
    addresses = config.network.replay_addresses
    with contextlib.ExitStack() as closing:
        envs = make_envs(config.env, config.actors.envs_per_actor, env_seed)
        closing.callback(envs.close)
        network = build_network(config.agent, envs.spec, seed=config.run.seed)
        seed_torch(policy_seed)
        policy = EpsilonGreedyPolicy(network, envs.spec.num_actions, policy_seed, noise=True)
        log_client = LogClient(config.network.coordinator_address)
        closing.callback(log_client.close)
        sender = EpisodeSender(log_client)
        weights_client = WeightsClient(config.network.coordinator_address)
        closing.callback(weights_client.close)
        follower = WeightsFollower(weights_client, config.actors.weights_interval_seconds, runtime.stop)
        probes = [ShardProbe(address, shard) for shard, address in enumerate(addresses)]
        shape = ItemShape.of(envs.spec, config.agent.stored_steps)
        # Two pieces for each environment and shard, at least, by the time that the replay is warm.
        pieces = 2 * config.replay.num_shards * envs.num_envs * (config.actors.num_actors or 1)
        warm_up = WarmUp(
            piece_steps=max(config.agent.stored_steps, config.min_replay_size // pieces),
            is_on=lambda: member.instructions.env_steps < config.min_replay_size,
        )
        streams = [
            TransitionStream(
                EpisodeWriter(addresses, shape, lambda env, step: member.instructions.initial_priority),
                probes,
                Identity(member.index, member.incarnation, env),
                config.actors.max_in_flight_items,
                runtime.stop,
                drain_seconds=DRAIN_SECONDS / envs.num_envs,
                warm_up=warm_up,
                while_blocked=lambda: loop.report(),
            )
            for env in range(envs.num_envs)
        ]
        loop = ActorLoop(config, envs, policy, streams, follower, sender, member, metrics, runtime.stop, black_box)
        metrics.report_also(loop.reported)
        sender.start()
        closing.callback(loop.report)
        closing.callback(sender.close)
        follower.start()
        for probe in probes:
            probe.start()
            closing.callback(probe.stop)
        for stream in streams:
            closing.callback(stream.close)
        runtime.serving()
        loop.run()


def seeds(run_seed: int, actor: int, incarnation: int) -> tuple[int, int]:
    """Seeds of environments and exploration: a restarted actor (another incarnation) does not play its old games again."""
    environment, policy = np.random.SeedSequence([run_seed, actor, incarnation]).generate_state(2)
    return int(environment >> 1), int(policy)  # ALE takes 31 bits


if __name__ == "__main__":
    run_program(main)

"""The actor's program: steps several environments with one batched policy, and writes to the replay shards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from actors.loop import ActorLoop
from actors.segment_stream import SegmentStream, preferred_shard
from actors.weights import WeightsFollower
from sbrl.config import Config
from sbrl.coordination.episode_log import EpisodeSender, LogClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, seed_torch, use_one_thread, warn_of_slow_precision
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import SegmentShape, Stream
from sbrl.replay.transition_writer import TransitionWriter
from sbrl.runtime.env_probe import try_out
from sbrl.runtime.lifecycle import RoleRuntime, load_role, role_arguments
from sbrl.runtime.memory import give_back_large_blocks
from sbrl.runtime.parent_death import has_launcher
from sbrl.runtime.program import run_program
from sbrl.seeds import actor_seeds
from sbrl.storage.black_box import BlackBox
from sbrl.telemetry.metrics import ActorMetrics, make_registry

DRAIN_SECONDS = 10.0  # for all environments of the process together, when it stops


def main(argv: Sequence[str]) -> None:
    arguments, config = load_role(role_arguments("actor", __doc__ or ""), argv)
    if not has_launcher():  # a launcher has tried an environment; otherwise try it before the fleet counts on this actor
        try_out(config.env)
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
                act(member.settled_config(config), runtime, member, metrics, black_box)
        finally:
            member.leave()


def act(config: Config, runtime: RoleRuntime, member: FleetMember, metrics: ActorMetrics, black_box: BlackBox) -> None:
    """Builds the actor's parts, runs its loop, and closes the parts in reverse order."""
    env_seed, policy_seed = actor_seeds(config.run.seed, member.index, member.incarnation)
    addresses = config.network.replay_addresses
    with contextlib.ExitStack() as closing:
        envs = make_envs(config.env, config.actors.envs_per_actor, env_seed)
        closing.callback(envs.close)
        network = build_network(config.agent, envs.spec, seed=config.run.seed)
        warn_of_slow_precision(config.actors.precision)
        seed_torch(policy_seed)
        policy = EpsilonGreedyPolicy(network, envs.spec.num_actions, policy_seed, noise=True, precision=config.actors.precision)
        log_client = LogClient(config.network.coordinator_address)
        closing.callback(log_client.close)
        sender = EpisodeSender(log_client)
        follower = WeightsFollower(WeightsClient(config.network.coordinator_address), config.actors.weights_interval_seconds)
        closing.callback(follower.close)
        probes = [QueueProbe(address, shard) for shard, address in enumerate(addresses)]
        shape = SegmentShape.of(envs.spec, config.agent.stored_steps)
        # Last: the learner needs about as long for its choice as the steps above take.
        sampling = member.wait_sampling(config.replay.sampling, runtime.stop)
        if not sampling:
            return

        def make_writer() -> SegmentWriter:
            if sampling == "cached":
                return SegmentWriter(addresses, shape, age=lambda: loop.global_steps())
            return TransitionWriter(
                addresses, shape, lambda: loop.global_steps(), initial_priority=lambda: member.instructions.initial_priority
            )

        streams = [
            SegmentStream(
                make_writer(),
                shape,
                probes,
                first=Stream(member.index, member.incarnation, env, 0),
                preferred=preferred_shard(member.index, env, envs.num_envs, len(addresses)),
                stop=runtime.stop,
                drain_seconds=DRAIN_SECONDS / envs.num_envs,
                while_blocked=lambda: loop.report(),
            )
            for env in range(envs.num_envs)
        ]
        loop = ActorLoop(config, envs, policy, streams, follower, sender, member, metrics, runtime.stop, black_box)
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


if __name__ == "__main__":
    run_program(main)

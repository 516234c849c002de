"""The learner's program: receives what actors collect, trains at the ratio, publishes weights, saves."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Sequence

import torch

from learner.algorithm.precision import configure_precision
from learner.algorithm.update import UpdateStep, make_update_step
from learner.block import make_updates
from learner.checkpoint import CheckpointStore, SavedLearner, restore_random
from learner.ending import RunEnd
from learner.filling import ENOUGH, Filling
from learner.loop import Training, train
from learner.memory.replay import ReplayMemory
from learner.metric_loggers import MetricLogger
from learner.probes import MemoryProbes
from learner.publication import Publications
from learner.publisher import Publisher
from learner.replay import Replay
from learner.reporting import Reporter
from learner.sampling import usable_memory
from learner.saving import Saver, StopNotice
from learner.tensorboard import TensorBoard
from learner.threads import settle_threads
from learner.wandb_logger import wandb_sinks
from sbrl.config import Config
from sbrl.coordination.fleet import SAMPLING_NAMES, FleetClient
from sbrl.coordination.fleet_watch import FleetWatch
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError, UsageError
from sbrl.networks.policy import seed_torch
from sbrl.replay.sampling import choose_sampling, memory_bytes
from sbrl.replay.segments import SegmentShape
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.runtime.env_probe import spec_for_role
from sbrl.runtime.lifecycle import RoleRuntime, load_role, role_arguments
from sbrl.runtime.program import run_program
from sbrl.seeds import learner_seed, probe_seed
from sbrl.storage.run_directory import RunDirectory
from sbrl.telemetry.metrics import LearnerMetrics, export_disk, make_registry
from sbrl.v1.fleet_pb2 import GetStatusResponse, LearnerProgress

logger = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
STATUS_PATIENCE_SECONDS = 30.0  # to wait for the coordinator's first answer
LAST_PUBLICATION_SECONDS = 15.0


def main(argv: Sequence[str]) -> None:
    arguments, config = load_role(role_arguments("learner", __doc__ or ""), argv)
    run_directory = RunDirectory(arguments.run_dir)
    spec = spec_for_role(config.env)
    settle_threads(config, spec)
    configure_precision(config.learner)
    seed_torch(learner_seed(config.run.seed))
    step = make_update_step(config, spec)
    registry = make_registry("learner")
    metrics = LearnerMetrics(registry)
    export_disk(registry, run_directory.path)
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        member = FleetMember.of_role(config.network.coordinator_address, "learner", arguments.name, metrics, runtime, index=0)
        member.start()
        try:
            if member.wait_joined_or(runtime.stop):
                learn(member.settled_config(config), runtime, run_directory, member, metrics, step, spec)
        finally:
            member.leave()


def export_settings(config: Config, metrics: LearnerMetrics) -> None:
    """Exports the configured values that dashboards and alerts compare readings with."""
    metrics.batch_size.set(config.learner.batch_size)
    metrics.updates_per_step_target.set(config.learner.updates_per_step)
    metrics.samples_per_insert_target.set(config.samples_per_insert)
    metrics.memory_capacity.set(config.replay.capacity)
    metrics.checkpoint_interval_seconds.set(config.run.checkpoint_interval_seconds)


def learn(
    config: Config,
    runtime: RoleRuntime,
    run_directory: RunDirectory,
    member: FleetMember,
    metrics: LearnerMetrics,
    step: UpdateStep,
    spec: EnvSpec,
) -> None:
    """Resumes from the newest checkpoint, trains, then saves and publishes one last time.

    Raises:
        RunError: the coordinator does not know the checkpoint's run.
        UsageError: replay.sampling=cached, and the memory does not fit.
    """
    export_settings(config, metrics)
    store = CheckpointStore(run_directory.learner_checkpoints, config.run.keep_checkpoints)
    state = store.load_newest()
    if state is not None:
        step.restore(state.update)
        step.diagnostics.restore(state.counters)
        restore_random(state.random)
        logger.info("going on from update %d", step.updates)
    with contextlib.ExitStack() as closing:
        fleet = FleetClient(config.network.coordinator_address)
        closing.callback(fleet.close)
        weights = WeightsClient(config.network.coordinator_address)
        closing.callback(weights.close)
        metric_logger = MetricLogger([TensorBoard(run_directory.tensorboard), *wandb_sinks(config, run_directory)])
        closing.callback(metric_logger.close)
        status = fleet.status(timeout=STATUS_PATIENCE_SECONDS, wait=True)
        if state is not None:
            check_known(state, status, config, run_directory)
        sampling = decide_sampling(config, spec, step.device, status)
        term, newest_version = weights.acquire_term(f"{socket.gethostname()}:{os.getpid()}")
        logger.info("holding term %d; newest weights are version %d", term, newest_version)
        metrics.term.set(term)
        member.hold_term(term)
        if not status.progress.sampling:
            tell_sampling(member, sampling)
        publisher = Publisher(weights, term)
        watch = FleetWatch(fleet, STATUS_SECONDS)
        replay = Replay.of(config, spec, step.device, sampling, state, term)
        if isinstance(replay.memory, ReplayMemory):
            step.diagnostics.look_at(MemoryProbes(replay.memory, config, probe_seed(config.run.seed)))
        reporter = Reporter(config, step, replay, publisher, member, watch, metric_logger, metrics)

        def check() -> None:
            member.check_fenced()
            reporter.require_finite()

        saver = Saver(
            store,
            config.run.checkpoint_interval_seconds,
            step,
            replay.ratio,
            replay.receipts,
            metrics,
            max_priority=replay.batches.max_priority,
            env_steps=lambda: member.instructions.env_steps,
            check=check,
        )
        stop_notice = StopNotice(saver, member.has_exchanged_since)
        publications = Publications(step, publisher, config.learner.publish_period, reporter.phase, reporter.diverge)
        filling = Filling(replay.readers, replay.intake, enough=ENOUGH if sampling == "cached" else 0.0)
        training = Training(
            replay=replay,
            updates=make_updates(config, step, replay.batches),
            filling=filling,
            member=member,
            updates_to_edge=publications.updates_to_edge,
            nothing_comes=RunEnd(watch, replay.readers, replay.intake).is_reached,
            phase=reporter.phase,
        )
        member.report_progress(reporter.progress)
        publisher.start()
        publications.publish()
        reporter.report(training.state)
        watch.start()
        closing.callback(watch.stop)
        replay.start()
        closing.callback(replay.stop)
        runtime.serving()
        complete = train(
            training,
            runtime.stop,
            reporter.remember_update,
            lambda done: stop_notice.hold_after_stop(done.time),
            publications.publish_if_due,
            lambda done: filling.update_progress(done.time),
            reporter.report_if_due,
            lambda done: saver.save_if_due(done.time),
        )
        replay.stop()
        saver.save()
        publisher.wait_idle(LAST_PUBLICATION_SECONDS)
        publications.publish()
        if not publisher.close(LAST_PUBLICATION_SECONDS):
            logger.warning("the last weights were not published: the coordinator did not answer")
        reporter.report(training.state)  # before the run is declared complete: the launcher then takes the last counts
        if complete:
            logger.info("the run is complete")
            try:
                member.send_heartbeat()
                fleet.finish()
            except CoordinatorUnavailable as error:
                logger.warning("could not say that the run is complete: %s", error)


def decide_sampling(config: Config, spec: EnvSpec, device: torch.device, status: GetStatusResponse) -> str:
    """Returns cached or remote. An earlier learner's choice stands for the whole run: shards and actors depend on it.

    Raises:
        UsageError: the config contradicts that choice, or asks for cached replay and the memory does not fit.
    """
    asked, before = config.replay.sampling, SAMPLING_NAMES[status.progress.sampling]
    if before and asked not in ("auto", before):
        raise UsageError(
            f"replay.sampling is {asked}, but this run's shards hold what {before} sampling needs: set it to {before}, or "
            f"start a new run"
        )
    if before:
        return before
    shape = SegmentShape.of(spec, config.agent.stored_steps)
    choice = choose_sampling(config, memory_bytes(shape, config.replay.capacity), *usable_memory(device))
    logger.info("replay is %s: %s", choice.sampling, choice.reason)
    return choice.sampling


def tell_sampling(member: FleetMember, sampling: str) -> None:
    """Reports the choice at once: shards and actors of a new run wait for it, and the next steps here take seconds."""
    member.report_progress(lambda: LearnerProgress(sampling=f"SAMPLING_{sampling.upper()}"))
    try:
        member.send_heartbeat()
    except CoordinatorUnavailable as error:
        logger.debug("%s; the next heartbeat will say where replay is sampled", error)


def check_known(state: SavedLearner, status: GetStatusResponse, config: Config, run_directory: RunDirectory) -> None:
    """Checks that the coordinator is the one that knew this run.

    The learner that saved the checkpoint held a term, so the right coordinator has issued at least one.

    Raises:
        RunError: the coordinator has issued no term, and would count the run's steps from zero.
    """
    if status.learner_term == 0:
        raise RunError(
            f"{run_directory.learner_checkpoints} has a network of {state.update.updates:,} updates, but the coordinator at "
            f"{config.network.coordinator_address} has never had a learner: its state is lost, or it is another run's. The "
            f"run's counters are in that state: put it back, or start a new run with empty "
            f"directories"
        )


if __name__ == "__main__":
    run_program(main)

"""The learner: trains on batches from whichever shard is ready, publishes weights and keeps checkpoints."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Sequence

import numpy as np

from learner.batches import BatchSource
from learner.boards import Board
from learner.books import TrainingBooks
from learner.checkpoint import CheckpointStore
from learner.loop import LearnerLoop
from learner.publisher import Publisher
from learner.records import LearnerState, restore_random
from learner.settling import least_correction
from learner.tensorboard import TensorBoard
from learner.update import UpdateStep, configure_torch, make_update_step
from learner.wandb_sink import wandb_sinks
from sbrl.checkpoint_reports import CheckpointReports
from sbrl.checkpoints import CorruptCheckpointError, find_checkpoint
from sbrl.config import Config
from sbrl.envs.probe import try_out
from sbrl.errors import RunError
from sbrl.fleet import FleetClient
from sbrl.fleet_member import FleetMember
from sbrl.fleet_watch import FleetWatch
from sbrl.generation_log import GenerationLog
from sbrl.lifecycle import START_AGAIN, RoleRuntime, load_role, role_arguments, run_program
from sbrl.metrics import LearnerMetrics, export_disk, make_registry
from sbrl.policy import seed_torch
from sbrl.replay.items import ItemShape
from sbrl.rpc import CoordinatorUnavailable
from sbrl.run_directory import RunDirectory
from sbrl.v1.fleet_pb2 import GetStatusResponse
from sbrl.weights import WeightsClient

logger = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
STATUS_PATIENCE_SECONDS = 30.0  # to wait for the totals that the books begin with
LAST_PUBLICATION_SECONDS = 15.0
SETTLE_SHARE = 0.002  # of what was trained: a fifth of what the ratio is promised to
# In an actor's place among the run's seeds (see actors.__main__.seeds); the evaluator has the one above.
_SEED_INDEX = 2**32 - 2


def main(argv: Sequence[str]) -> None:
    arguments, config = load_role(role_arguments("learner", __doc__ or ""), argv)
    run_directory = RunDirectory(arguments.run_dir)
    configure_torch(config.learner.num_threads)
    seed_torch(learner_seed(config.run.seed))
    spec = try_out(config.env)
    step = make_update_step(config, spec)
    registry = make_registry("learner")
    metrics = LearnerMetrics(registry)
    export_disk(registry, run_directory.path)
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        member = FleetMember.of_role(config.network.coordinator_address, "learner", arguments.name, metrics, runtime, index=0)
        member.start()
        try:
            if member.wait_joined_or(runtime.stop):
                source = BatchSource(
                    config.network.replay_addresses,
                    ItemShape.of(spec, config.agent.stored_steps),
                    config.agent,
                    config.learner.batch_size,
                )
                learn(config, runtime, run_directory, member, metrics, step, source)
        finally:
            member.leave()


def learner_seed(run_seed: int) -> int:
    """Of the noise, augmentation and quantile fractions of a run's updates: of no actor's stream, nor the evaluator's."""
    (seed,) = np.random.SeedSequence([run_seed, _SEED_INDEX]).generate_state(1)
    return int(seed)


def learn(
    config: Config,
    runtime: RoleRuntime,
    run_directory: RunDirectory,
    member: FleetMember,
    metrics: LearnerMetrics,
    step: UpdateStep,
    source: BatchSource,
) -> None:
    """Goes on from the newest checkpoint, trains, and saves and publishes a last time.

    Raises:
        RunError: the coordinator does not know the run that the checkpoint is of.
    """
    metrics.batch_size.set(config.learner.batch_size)
    metrics.updates_per_step_target.set(config.learner.updates_per_step)
    metrics.samples_per_insert_target.set(config.samples_per_insert)
    metrics.checkpoint_interval_seconds.set(config.run.checkpoint_interval_seconds)
    store = CheckpointStore(run_directory.learner_checkpoints, config.run.keep_checkpoints)
    log = GenerationLog(run_directory.learner_checkpoints)
    take_up(member, store, log)
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
        board = Board([TensorBoard(run_directory.tensorboard), *wandb_sinks(config, run_directory)])
        closing.callback(board.close)
        if state is not None:
            check_known(state, fleet.status(timeout=STATUS_PATIENCE_SECONDS, wait=True), config, run_directory)
        epoch, newest_version = weights.acquire_epoch(f"{socket.gethostname()}:{os.getpid()}")
        logger.info("holding epoch %d; newest weights are version %d", epoch, newest_version)
        watch = FleetWatch(fleet, STATUS_SECONDS)
        publisher = Publisher(weights, epoch)
        member.hold_epoch(epoch)
        metrics.epoch.set(epoch)
        held = {} if state is None else state.counters
        totals = fleet.status(timeout=STATUS_PATIENCE_SECONDS, wait=True).totals
        books = TrainingBooks(config.replay.num_shards, totals, held, step.updates)
        if books.samples_lost:
            logger.warning("%.0f samples were trained on and not saved: they are due again", books.samples_lost)
        loop = LearnerLoop(
            config,
            step,
            source,
            store,
            publisher,
            member,
            watch,
            board,
            metrics,
            runtime.stop,
            books=books,
            reports=CheckpointReports(member, log),
            saved=None if state is None else find_checkpoint(run_directory.learner_checkpoints, step.updates),
            max_priority=float(state.counters.get("max_priority", 1.0)) if state is not None else 1.0,
        )
        metrics.report_also(loop.reported)
        closing.callback(loop.close_books)  # however it ends: what was received and not trained on is given up
        publisher.start()
        loop.publish()
        loop.report()
        # A drift that would not show in the ratio is left for the end: a large shard takes a minute to correct its count.
        loop.settle(max(least_correction(config), SETTLE_SHARE * books.in_network))
        watch.start()
        closing.callback(watch.stop)
        source.start()
        closing.callback(source.stop)
        runtime.serving()
        complete = loop.run()
        source.stop()
        loop.save_last()
        loop.publish()
        if not publisher.close(LAST_PUBLICATION_SECONDS):
            logger.warning("the last weights were not published: the coordinator did not answer")
        loop.close_books()
        loop.report()  # before the run is said to be complete, upon which the launcher takes the last counts
        if complete:
            logger.info("the run is complete")
            try:
                fleet.finish()
            except CoordinatorUnavailable as error:
                logger.warning("could not say that the run is complete: %s", error)


def take_up(member: FleetMember, store: CheckpointStore, log: GenerationLog) -> None:
    """Makes the checkpoint that the timeline begins with the newest one, where this learner has not begun it yet.

    Raises:
        SystemExit: it cannot be read, and the run goes back a generation further: start again.
    """
    timeline = member.joined_with.timeline
    if log.timeline == timeline:
        return
    if member.base_checkpoint:
        try:
            store.go_back_to(member.base_checkpoint, member.base_checkpoint_digest)
        except CorruptCheckpointError as error:
            member.refuse_checkpoint(str(error))
            raise SystemExit(START_AGAIN) from None
    log.begin(timeline)


def check_known(state: LearnerState, status: GetStatusResponse, config: Config, run_directory: RunDirectory) -> None:
    """Whoever saved the checkpoint held an epoch: a coordinator that has given none is not the one that knew this run.

    Raises:
        RunError: it is not, and its books would take all that the network was trained on for too much.
    """
    if status.learner_epoch == 0:
        raise RunError(
            f"{run_directory.learner_checkpoints} has a network of {state.update.updates:,} updates, but the coordinator at "
            f"{config.network.coordinator_address} has never had a learner: its state is lost, or it is another run's. The "
            f"run's counters and the books of its ratio are in that state: put it back, or start a new run with empty "
            f"directories"
        )


if __name__ == "__main__":
    run_program(main)

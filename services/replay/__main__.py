"""The replay role: one shard, a Reverb server that keeps the samples per insert and its own checkpoints."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

from sbrl.checkpoint_reports import CheckpointReports
from sbrl.config_sections import Replay
from sbrl.envs.probe import try_out
from sbrl.errors import RunError, UsageError
from sbrl.fleet import Instructions
from sbrl.fleet_member import FleetMember
from sbrl.generation_log import GenerationLog
from sbrl.lifecycle import START_AGAIN, RoleRuntime, load_role, role_arguments, run_program
from sbrl.memory import memory_limit_bytes, resident_bytes
from sbrl.metrics import LIMITER_STATES, ReplayMetrics, Totals, export_disk, make_registry
from sbrl.replay.items import ItemShape
from sbrl.replay.shard_checkpoints import ShardCheckpoints, size_and_digest
from sbrl.replay.table import ShardServer
from sbrl.rpc import CoordinatorUnavailable
from sbrl.run_directory import RunDirectory
from sbrl.sharding import ShardLimits, limiter_room, limiter_state, shard_limits
from services.replay.watchdog import Watchdog

logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
CONFIRM_SECONDS = 2.0  # in which the next beat is answered
# In parts of replay.checkpoint_interval_seconds: when a shard saves that no generation has asked to, for somebody is away.
OVERDUE = 1.5
MIN_TRANSITIONS = 1000  # fewer in the table say little of what one occupies
JOIN_SECONDS = 30.0  # to wait for the coordinator's word on what to go on from
INSERTED = "transitions_inserted"
SILENT_SECONDS = 60.0  # a server that has not answered for so long is taken to hang: this process ends and is started again
# One pass of the main loop, a checkpoint included, that takes longer hangs. 10 GB on a slow disk take minutes, and the
# coordinator waits ten for a generation; a save that is under way must never be ended for being slow.
HANGS_SECONDS = 900.0


def main(argv: Sequence[str]) -> None:
    parser = role_arguments("replay", __doc__ or "")
    parser.add_argument(
        "--shard", type=int, metavar="N", help="which shard this is, from 0 (default: the number --name ends with, else 0)"
    )
    arguments, config = load_role(parser, argv)
    shard = ordinal(arguments.name) if arguments.shard is None else arguments.shard
    if not 0 <= shard < config.replay.num_shards:
        raise UsageError(f"--shard {shard} is not one of the config's {config.replay.num_shards} shards, which count from 0")
    shape = ItemShape.of(try_out(config.env), config.agent.stored_steps)
    registry = make_registry("replay")
    metrics = ReplayMetrics(registry)
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        port = int(config.network.replay_addresses[shard].rpartition(":")[2])
        directory = RunDirectory(arguments.run_dir).replay_checkpoints(shard)
        export_disk(registry, directory)
        limits = shard_limits(config, shard)
        metrics.capacity.set(limits.capacity)
        metrics.min_size.set(limits.min_size)
        metrics.samples_per_insert_target.set(limits.samples_per_insert)
        metrics.memory_limit_bytes.set(memory_limit_bytes())
        metrics.checkpoint_interval_seconds.set(config.replay.checkpoint_interval_seconds)
        member = FleetMember.of_role(
            config.network.coordinator_address, "replay", arguments.name, metrics, runtime, index=shard
        )
        metrics.samples_owed.set(math.nan)  # unknown until the table is there: a limiter that counts nothing is not astray
        member.start()
        log = GenerationLog(directory)
        owed = take_up(member, directory, log)
        resident_before = resident_bytes()
        server = ShardServer(config, shape, shard, port, directory, owed=owed)
        reporter = ShardReporter(server, metrics, limits, resident_before, shard)
        saver = ShardSaver(server, metrics, CheckpointReports(member, log), config.replay)
        reporter.try_report()
        metrics.report_also(reporter.counters)
        runtime.serving()
        logger.info("serving on port %d with %d transitions restored", port, server.restored_size)
        again = False
        watchdog = Watchdog(HANGS_SECONDS)
        watchdog.start()
        while not runtime.stop.wait(REPORT_SECONDS):
            watchdog.pass_begins()
            reporter.try_report()
            if member.has_joined and member.joined_with.timeline != log.timeline:
                # The coordinator was not there when this process began, and the run has gone back to a generation meanwhile.
                raise SystemExit(START_AGAIN)
            if member.instructions.limiter_correction is not None and (correction := confirmed_correction(member)) is not None:
                # Reverb has no call that sets a limiter: the next process starts with what the books say is owed.
                if is_quiet(server) and saver.save(member.instructions):
                    logger.info("starting again for %.0f samples beyond the limiter's count", correction)
                    again = True
                    break
            elif saver.is_due(member.instructions):
                saver.save_or_repeat(member.instructions)
                reporter.has_answered()  # it was busy with that, and asked nothing else
        watchdog.pass_begins()
        if not again:
            saver.save(member.instructions)
        reporter.try_report()
        member.leave()
        if again:
            raise SystemExit(START_AGAIN)
        # The server ends with the process: stopped, it would confirm to writers what it has not inserted yet.


def take_up(member: FleetMember, directory: Path, log: GenerationLog) -> float | None:
    """Waits for the coordinator's word on what to go on from; returns what the limiter is to count as owed.

    Without a coordinator the shard goes on from its newest checkpoint with that one's own count: None. One that has none at
    all, on a new disk, say, starts empty: no generation before could help it.

    Raises:
        SystemExit: the checkpoint cannot be read, and the run goes back a generation further: start again.
        RunError: the directory cannot be used.
    """
    try:
        member.wait_joined(JOIN_SECONDS)
    except CoordinatorUnavailable as error:
        logger.warning("%s: going on from the newest checkpoint with its own count of samples", error)
        return None
    joined = member.joined_with
    if log.timeline != joined.timeline:
        try:
            checkpoints = ShardCheckpoints(directory)
            is_empty = not checkpoints.complete()
        except OSError as error:
            raise RunError(f"cannot use replay checkpoints in {directory}: {error.strerror}") from None
        if member.base_checkpoint and is_empty:
            logger.warning("%s has no checkpoint at all, not even %s: starting empty", directory, member.base_checkpoint)
        elif member.base_checkpoint:
            try:
                checkpoints.go_back_to(member.base_checkpoint, member.base_checkpoint_digest)
            except ValueError as error:
                member.refuse_checkpoint(f"checkpoint {member.base_checkpoint}: {error}")
                raise SystemExit(START_AGAIN) from None
        log.begin(joined.timeline)
    return joined.samples_owed


def confirmed_correction(member: FleetMember) -> float | None:
    """The correction that the coordinator still wants now that it has this shard's newest count; None: it was outdated."""
    return member.wait_instructions(CONFIRM_SECONDS).limiter_correction


def is_quiet(server: ShardServer) -> bool:
    """Whether this process may end after a checkpoint without an insertion lost (see `ShardServer.wait_quiet`)."""
    try:
        return server.wait_quiet()
    except RunError as error:
        logger.warning("%s; trying again", error)
        return False


def ordinal(name: str) -> int:
    """The number a name ends with, as a StatefulSet's pods' do (sbrl-replay-3); 0 if it ends with none."""
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else 0


class ShardReporter:
    """A shard's server together with its metrics."""

    def __init__(
        self, server: ShardServer, metrics: ReplayMetrics, limits: ShardLimits, resident_before: int, shard: int
    ) -> None:
        """Args: resident_before: memory of the process before the table was made, in bytes."""
        self._server, self._metrics, self._totals, self._limits = server, metrics, Totals(), limits
        self._resident_before, self._shard = resident_before, shard
        self._last_answer = time.monotonic()
        self._inserted = 0

    def counters(self) -> dict[str, float]:
        """What beats report of this shard apart from the others."""
        return {f"{INSERTED}.{self._shard}": float(self._inserted), INSERTED: float(self._inserted)}

    def report(self) -> None:
        """Brings the metrics up to date with the table's counters."""
        info, metrics, limits = self._server.info(), self._metrics, self._limits
        inserted, sampled = self._server.served_since_start(info)
        self._totals.raise_to(metrics.transitions_inserted, inserted)
        self._totals.raise_to(metrics.samples_served, sampled)
        self._totals.raise_to(metrics.blocked_seconds.labels("learner"), info.waited_for_samples_seconds)
        self._totals.raise_to(metrics.blocked_seconds.labels("actors"), info.waited_for_inserts_seconds)
        metrics.transitions.set(info.size)
        metrics.limiter_inserts.set(info.inserted)
        counted = round((info.inserted - limits.min_size) * limits.samples_per_insert - info.owed)
        metrics.limiter_samples.set(counted)
        state = limiter_state(limits, info.size, info.inserted, counted)
        for name in LIMITER_STATES:
            metrics.limiter_state.labels(name).set(name == state)
        room_for_samples, room_for_inserts = limiter_room(limits, info.inserted, counted)
        metrics.limiter_room_samples.set(0 if state == "filling" else room_for_samples)
        metrics.limiter_room_transitions.set(room_for_inserts)
        resident = resident_bytes()
        metrics.resident_bytes.set(resident)
        if info.size >= MIN_TRANSITIONS:
            metrics.bytes_per_transition.set(max(0, resident - self._resident_before) / info.size)
        after_warm_up = info.inserted - limits.min_size
        metrics.samples_per_insert_achieved.set(counted / after_warm_up if after_warm_up > 0 else 0.0)
        # Together, for the coordinator compares them; a beat between the two is off by what came in a moment.
        self._inserted = inserted
        metrics.samples_owed.set(info.owed)

    def has_answered(self) -> None:
        """The time that the server may be silent begins now."""
        self._last_answer = time.monotonic()

    def try_report(self) -> None:
        """As `report`; a server that is busy (with a checkpoint, say) is asked again later.

        Raises:
            RunError: it has not answered for a minute.
        """
        try:
            self.report()
            self.has_answered()
        except RunError as error:
            if time.monotonic() - self._last_answer > SILENT_SECONDS:
                raise
            logger.warning("%s; asking again", error)


class ShardSaver:
    """Writes the shard's checkpoints and reports them for generations."""

    def __init__(self, server: ShardServer, metrics: ReplayMetrics, reports: CheckpointReports, config: Replay) -> None:
        self._server, self._metrics, self._reports, self._config = server, metrics, reports, config
        self._saved_time = self._tried_time = time.monotonic()
        metrics.checkpoint_age_seconds.set_function(lambda: time.monotonic() - self._saved_time)

    def is_due(self, instructions: Instructions) -> bool:
        """Whether a generation waits for this shard, or none was made for so long that it saves by itself."""
        overdue = time.monotonic() - self._tried_time >= OVERDUE * self._config.checkpoint_interval_seconds
        return overdue or self._reports.is_due(instructions)

    def save_or_repeat(self, instructions: Instructions) -> None:
        """Writes a checkpoint, or reports again the one that the generation has of this process."""
        if not (instructions.checkpoint_wanted and self._reports.repeat(instructions)):
            self.save(instructions)

    def save(self, instructions: Instructions) -> bool:
        """Writes a checkpoint; one that fails is counted and said, and the shard goes on with the one before."""
        start = self._tried_time = time.monotonic()
        try:
            self._prune(instructions)  # first, so that no more than one beyond those that are kept is ever on the disk
            path = self._server.checkpoint()
            if instructions.checkpoint_wanted:
                held = {INSERTED: float(self._server.inserted_at(path))}
                self._reports.report(instructions.generation, path.name, *size_and_digest(path), held)
            self._prune(instructions)
        except (RuntimeError, OSError, ValueError, RunError) as error:
            self._metrics.checkpoint_failures.inc()
            logger.error("checkpoint failed: %s", error)
            return False
        self._saved_time = time.monotonic()
        self._metrics.checkpoints.inc()
        self._metrics.checkpoint_duration_seconds.set(self._saved_time - start)
        logger.info("checkpoint %s in %.1f s", path.name, self._saved_time - start)
        return True

    def _prune(self, instructions: Instructions) -> None:
        self._server.checkpoints.prune(self._config.keep_checkpoints, self._reports.needed(instructions))


if __name__ == "__main__":
    run_program(main)

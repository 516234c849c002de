"""The replay role: one shard, a Reverb server that keeps transitions, serves the learner, and saves."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

from sbrl.config.sections import Replay
from sbrl.coordination.membership import FleetMember
from sbrl.errors import RunError, UsageError
from sbrl.replay.shard import ShardServer
from sbrl.runtime.env_probe import spec_for_role
from sbrl.runtime.lifecycle import RoleRuntime, load_role, role_arguments
from sbrl.runtime.memory import give_back_freed, memory_limit_bytes, memory_used_bytes, resident_bytes
from sbrl.runtime.program import run_program
from sbrl.storage.run_directory import RunDirectory
from sbrl.telemetry.metrics import ReplayMetrics, Totals, export_disk, make_registry
from services.replay.watchdog import Watchdog

logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
MIN_TRANSITIONS = 1000  # with fewer in the log, the measured bytes per transition mean little
SILENT_SECONDS = 60.0  # a server that has not answered for this long hangs: this process ends and is started again
# A pass of the main loop, including a checkpoint, hangs if it takes longer. 10 GB on a slow disk take minutes, and a slow save
# must never be aborted.
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
    spec = spec_for_role(config.env)
    registry = make_registry("replay")
    metrics = ReplayMetrics(registry)
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        port = int(config.network.replay_addresses[shard].rpartition(":")[2])
        directory = RunDirectory(arguments.run_dir).replay_checkpoints(shard)
        export_disk(registry, directory)
        metrics.memory_limit_bytes.set(memory_limit_bytes())
        metrics.checkpoint_interval_seconds.set(config.replay.checkpoint_interval_seconds)
        member = FleetMember.of_role(
            config.network.coordinator_address, "replay", arguments.name, metrics, runtime, index=shard
        )
        member.start()
        try:
            sampling = member.wait_sampling(config.replay.sampling, runtime.stop)
            if not sampling:
                return
            resident_before = resident_bytes()
            server = ShardServer(config, spec, shard, sampling, port, directory)
            give_back_freed()  # memory that reading a checkpoint took
            reporter = ShardReporter(server, metrics, resident_before)
            saver = ShardSaver(server, metrics, config.replay)
            reporter.try_report()
            runtime.serving()
            logger.info("serving on port %d with %d segments restored", port, server.restored_segments)
            watchdog = Watchdog(HANGS_SECONDS)
            watchdog.start()
            while not runtime.stop.wait(REPORT_SECONDS):
                watchdog.pass_begins()
                reporter.try_report()
                if saver.is_due:
                    saver.save()
                    reporter.has_answered()  # the server was busy with the checkpoint, and nothing else was asked
            watchdog.pass_begins()
            saver.save()
            reporter.try_report()
        finally:
            member.leave()
        # Not stopped: it ends with the process. A stopping server would confirm segments that it has not inserted yet.


def ordinal(name: str) -> int:
    """The number at the end of a name, as in the pods of a StatefulSet (sbrl-replay-3); 0 if there is none."""
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else 0


class ShardReporter:
    """Reports the state of a shard's server as metrics."""

    def __init__(self, server: ShardServer, metrics: ReplayMetrics, resident_before: int) -> None:
        """Args: resident_before: memory of the process before the tables were made, in bytes."""
        self._server, self._metrics, self._totals = server, metrics, Totals()
        self._resident_before = resident_before
        self._last_answer = time.monotonic()
        metrics.log_capacity.set(server.log_capacity)
        metrics.queue_capacity.set(server.queue_capacity)
        metrics.transitions_capacity.set(server.capacity)

    def report(self) -> None:
        """Brings the metrics up to date with the tables' counters."""
        info, metrics, raise_to = self._server.info(), self._metrics, self._totals.raise_to
        raise_to(metrics.segments_inserted, info.inserted)
        raise_to(metrics.segments_served, info.served)
        raise_to(metrics.samples_served, info.sampled)
        raise_to(metrics.blocked_seconds.labels("learner"), info.waited_for_learner_seconds)
        raise_to(metrics.blocked_seconds.labels("actors"), info.waited_for_actors_seconds)
        metrics.log_segments.set(info.log_segments)
        metrics.transitions.set(info.transitions)
        metrics.queue_segments.set(info.queue_segments)
        resident = resident_bytes()
        metrics.memory_used_bytes.set(memory_used_bytes())
        if info.transitions >= MIN_TRANSITIONS:
            metrics.bytes_per_transition.set(max(0, resident - self._resident_before) / info.transitions)

    def has_answered(self) -> None:
        """Restarts the time that the server may be silent."""
        self._last_answer = time.monotonic()

    def try_report(self) -> None:
        """Like `report`, but tolerates a busy server (for example during a checkpoint), which is asked again later.

        Raises:
            RunError: the server has not answered for a minute.
        """
        try:
            self.report()
            self.has_answered()
        except RunError as error:
            if time.monotonic() - self._last_answer > SILENT_SECONDS:
                raise
            logger.warning("%s; asking again", error)


class ShardSaver:
    """Writes the shard's periodic checkpoints to its own disk, independently of other shards."""

    def __init__(self, server: ShardServer, metrics: ReplayMetrics, config: Replay) -> None:
        self._server, self._metrics, self._config = server, metrics, config
        self._saved_time = self._tried_time = time.monotonic()
        metrics.checkpoint_age_seconds.set_function(lambda: time.monotonic() - self._saved_time)

    @property
    def is_due(self) -> bool:
        """Whether the interval has passed since the last try."""
        return time.monotonic() - self._tried_time >= self._config.checkpoint_interval_seconds

    def save(self) -> bool:
        """Writes a checkpoint. A failure is counted and logged, and the shard keeps the previous checkpoint."""
        start = self._tried_time = time.monotonic()
        checkpoints = self._server.checkpoints
        try:
            checkpoints.prune(
                self._config.keep_checkpoints
            )  # first, so that there is never more than one checkpoint beyond those kept
            path = self._server.checkpoint()
            checkpoints.prune(self._config.keep_checkpoints)
        except (RuntimeError, OSError, ValueError, RunError) as error:
            self._metrics.checkpoint_failures.inc()
            logger.error("checkpoint failed: %s", error)
            return False
        finally:
            give_back_freed()  # Reverb has copied every item's description, in between memory that stays in use
        self._saved_time = time.monotonic()
        self._metrics.checkpoints.inc()
        self._metrics.checkpoint_duration_seconds.set(self._saved_time - start)
        logger.info("checkpoint %s in %.1f s", path.name, self._saved_time - start)
        return True


if __name__ == "__main__":
    run_program(main)

"""The replay role: one shard, a Reverb server that keeps the samples per insert and its own checkpoints."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

from sbrl.envs.make import make_spec
from sbrl.errors import RunError, UsageError
from sbrl.fleet import FleetMember
from sbrl.lifecycle import RoleRuntime, load_role, role_arguments, run_program
from sbrl.memory import memory_limit_bytes, resident_bytes
from sbrl.metrics import LIMITER_STATES, ReplayMetrics, Totals, export_disk, make_registry
from sbrl.replay.items import ItemShape
from sbrl.replay.table import ShardServer
from sbrl.run_directory import RunDirectory
from sbrl.sharding import ShardLimits, limiter_room, limiter_state, shard_limits

logger = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
MIN_TRANSITIONS = 1000  # fewer in the table say little of what one occupies
SILENT_SECONDS = 60.0  # a server that has not answered for so long is taken to hang: this process ends and is started again


def main(argv: Sequence[str]) -> None:
    parser = role_arguments("replay", __doc__ or "")
    parser.add_argument(
        "--shard", type=int, metavar="N", help="which shard this is, from 0 (default: the number --name ends with, else 0)"
    )
    arguments, config = load_role(parser, argv)
    shard = ordinal(arguments.name) if arguments.shard is None else arguments.shard
    if not 0 <= shard < config.replay.num_shards:
        raise UsageError(f"--shard {shard} is not one of the config's {config.replay.num_shards} shards, which count from 0")
    shape = ItemShape.of(make_spec(config.env), config.agent.stored_steps)
    registry = make_registry("replay")
    metrics = ReplayMetrics(registry)
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        port = int(config.network.replay_addresses[shard].rpartition(":")[2])
        directory = RunDirectory(arguments.run_dir).replay_checkpoints(shard)
        resident_before = resident_bytes()
        server = ShardServer(config, shape, shard, port, directory)
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
        member.start()
        runtime.serving()
        reporter = ShardReporter(server, metrics, limits, resident_before)
        logger.info("serving on port %d with %d transitions restored", port, server.restored_size)
        next_checkpoint = time.monotonic() + config.replay.checkpoint_interval_seconds
        while not runtime.stop.wait(REPORT_SECONDS):
            reporter.try_report()
            if time.monotonic() >= next_checkpoint:
                reporter.checkpoint()
                next_checkpoint = time.monotonic() + config.replay.checkpoint_interval_seconds
        reporter.checkpoint()
        reporter.try_report()
        member.leave()
        server.stop()


def ordinal(name: str) -> int:
    """The number a name ends with, as a StatefulSet's pods' do (sbrl-replay-3); 0 if it ends with none."""
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else 0


class ShardReporter:
    """A shard's server together with its metrics."""

    def __init__(self, server: ShardServer, metrics: ReplayMetrics, limits: ShardLimits, resident_before: int) -> None:
        """Args: resident_before: memory of the process before the table was made, in bytes."""
        self._server, self._metrics, self._totals, self._limits = server, metrics, Totals(), limits
        self._resident_before = resident_before
        self._last_checkpoint = self._last_answer = time.monotonic()

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
        metrics.limiter_samples.set(info.sampled)
        state = limiter_state(limits, info.size, info.inserted, info.sampled)
        for name in LIMITER_STATES:
            metrics.limiter_state.labels(name).set(name == state)
        room_for_samples, room_for_inserts = limiter_room(limits, info.inserted, info.sampled)
        metrics.limiter_room_samples.set(0 if state == "filling" else room_for_samples)
        metrics.limiter_room_transitions.set(room_for_inserts)
        resident = resident_bytes()
        metrics.resident_bytes.set(resident)
        if info.size >= MIN_TRANSITIONS:
            metrics.bytes_per_transition.set(max(0, resident - self._resident_before) / info.size)
        after_warm_up = info.inserted - limits.min_size
        metrics.samples_per_insert_achieved.set(info.sampled / after_warm_up if after_warm_up > 0 else 0.0)
        metrics.checkpoint_age_seconds.set(time.monotonic() - self._last_checkpoint)

    def try_report(self) -> None:
        """As `report`; a server that is busy (with a checkpoint, say) is asked again later.

        Raises:
            RunError: it has not answered for a minute.
        """
        try:
            self.report()
            self._last_answer = time.monotonic()
        except RunError as error:
            if time.monotonic() - self._last_answer > SILENT_SECONDS:
                raise
            logger.warning("%s; asking again", error)

    def checkpoint(self) -> None:
        """Writes a checkpoint; one that fails is counted and said, and the shard goes on with the one before."""
        start = time.monotonic()
        try:
            path = self._server.checkpoint()
        except (RuntimeError, OSError) as error:
            self._metrics.checkpoint_failures.inc()
            logger.error("checkpoint failed: %s", error)
            return
        self._last_checkpoint = time.monotonic()
        self._metrics.checkpoints.inc()
        self._metrics.checkpoint_duration_seconds.set(self._last_checkpoint - start)
        logger.info("checkpoint %s in %.1f s", path.name, self._last_checkpoint - start)


if __name__ == "__main__":
    run_program(main)

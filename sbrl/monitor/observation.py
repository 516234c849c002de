"""Observes a running run: two answers of the coordinator, every role's health, and local processes."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from sbrl.config import Config
from sbrl.coordination.fleet import FleetClient, RunState
from sbrl.errors import RunError
from sbrl.monitor.run_status import RunStatus, config_of
from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials
from sbrl.rpc.health import OPEN
from sbrl.telemetry.metric_base import DISK_FREE, DISK_SIZE
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member

ANSWER_SECONDS = 3.0  # time limit for one request to one role
THREADS = 16
# Metrics are on loopback or in the cluster. A proxy from the environment could not reach them.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SERVING, NOT_SERVING, SILENT = "serving", "not serving", "no answer"


class Settings(NamedTuple):
    """The run's targets, from its config."""

    target_env_steps: int
    min_replay_size: int
    num_shards: int
    batch_size: int
    samples_per_insert: float
    evaluation_interval_env_steps: int
    ahead: float  # transitions that the learner may receive ahead of its updates
    num_actors: int | None = None  # None: as many as there are

    @property
    def updates_per_step(self) -> float:
        return self.samples_per_insert / self.batch_size

    @classmethod
    def of_config(cls, config: Config) -> Settings:
        return cls(
            target_env_steps=config.run.env_steps,
            min_replay_size=config.min_replay_size,
            num_shards=config.replay.num_shards,
            batch_size=config.learner.batch_size,
            samples_per_insert=config.samples_per_insert,
            evaluation_interval_env_steps=config.evaluator.interval_env_steps,
            ahead=config.receive_ahead,
            num_actors=config.actors.num_actors,
        )


class Process(NamedTuple):
    """A role's process on this machine."""

    name: str
    process_id: int
    stopped: bool  # by SIGSTOP, Ctrl-Z or a debugger


class MemberReading(NamedTuple):
    """One member of the fleet."""

    role: str
    name: str
    alive: bool  # its lease holds
    seconds_since_heartbeat: float
    health: str | None = None  # SERVING, NOT_SERVING or SILENT; None: unknown here
    gauges: Mapping[str, float] = {}
    rates: Mapping[str, float] = {}  # of counters, per second
    disk_free: float | None = None  # share; None: unknown here


class Observation(NamedTuple):
    """A run, observed over `seconds` seconds."""

    seconds: float
    settings: Settings | None
    coordinator_error: str | None = None  # why it gave no answer
    run: RunStatus | None = None  # None: no answer
    readings: tuple[MemberReading, ...] = ()
    totals: Mapping[str, float] = {}  # "<role>.<counter>" since the run began
    rates: Mapping[str, float] = {}  # of the same counters, per second
    updates_per_second: float = 0.0
    weights_version: int = 0
    weights_age_seconds: float = 0.0
    processes: tuple[Process, ...] | None = None  # None: the run may be on other machines

    @property
    def state(self) -> RunState | None:
        """The state of the run; None without an answer."""
        return None if self.run is None else self.run.state

    def of_role(self, role: str) -> list[MemberReading]:
        """The live members of a role."""
        return [reading for reading in self.readings if reading.role == role and reading.alive]

    def process(self, name: str) -> Process | None:
        """The process of a role of that name, if the run is on this machine."""
        return next((process for process in self.processes or () if process.name == name), None)


def observe(
    address: str,
    config: Config | None,
    run_directory: Path | None,
    seconds: float,
    credentials: Credentials | None = None,
    healths: Mapping[str, str] | None = None,
) -> Observation:
    """Observes a run for `seconds` seconds.

    Args:
        address: host:port of the coordinator.
        config: None takes the coordinator's config.
        run_directory: the directory of a run on this machine, to observe its processes, too.
        credentials: for the coordinator; None takes those of the environment.
        healths: health by member name, if the caller knows it; None: ask the members themselves.
    """
    client = FleetClient(address, credentials)
    try:
        before, start = client.status(ANSWER_SECONDS), time.monotonic()
        time.sleep(seconds)
        after, elapsed = client.status(ANSWER_SECONDS), time.monotonic() - start
    except RunError as error:
        settings = None if config is None else Settings.of_config(config)
        return Observation(seconds, settings, coordinator_error=str(error), processes=_processes(run_directory))
    finally:
        client.close()
    config = config or config_of(after)
    return Observation(
        seconds=elapsed,
        settings=None if config is None else Settings.of_config(config),
        run=None if config is None else RunStatus.of(after, config.min_replay_size),
        readings=tuple(_readings(before, after, elapsed, healths)),
        totals=dict(after.totals),
        rates=_rates(before.totals, after.totals, elapsed),
        updates_per_second=max(0, after.progress.updates - before.progress.updates) / elapsed,
        weights_version=int(after.weights_version),
        weights_age_seconds=after.weights_age_seconds,
        processes=_processes(run_directory),
    )


def processes_of(run_directory: Path) -> list[Process]:
    """The role processes on this machine that work on a run directory."""
    found = []
    wanted = run_directory.resolve()
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "--run-dir" not in words or "--name" not in words:
                continue
            if (Path(process.cwd()) / words[words.index("--run-dir") + 1]).resolve() == wanted:
                name = words[words.index("--name") + 1]
                found.append(Process(name, process.pid, process.status() == psutil.STATUS_STOPPED))
        except (psutil.Error, IndexError):  # it ended meanwhile, or we may not read it
            continue
    return found


def scrape(address: str, timeout: float) -> dict[str, float]:
    """The unlabelled metrics of the process at host:port, by name; empty if it does not answer in time."""
    try:
        with DIRECT.open(f"http://{address}/metrics", timeout=timeout) as response:
            text = response.read().decode()
    except OSError:
        return {}
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


def health_of(address: str, timeout: float) -> str:
    """SERVING, NOT_SERVING, or SILENT."""
    with channels.open_channel(address, OPEN) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=timeout)
        except grpc.RpcError:
            return SILENT
    return SERVING if answer.status == health_pb2.HealthCheckResponse.SERVING else NOT_SERVING


def _processes(run_directory: Path | None) -> tuple[Process, ...] | None:
    return None if run_directory is None else tuple(processes_of(run_directory))


def _readings(
    before: GetStatusResponse, after: GetStatusResponse, seconds: float, known: Mapping[str, str] | None
) -> Iterable[MemberReading]:
    earlier = {member.incarnation: member.counters for member in before.members}
    alive = [member for member in after.members if member.alive]
    healths: dict[str, str] = {}
    disks: dict[str, float | None] = {}
    if known is None:
        with ThreadPoolExecutor(THREADS) as pool:
            healths = dict(zip((one.name for one in alive), pool.map(_ask_health, alive), strict=True))
            disks = dict(zip((one.name for one in alive), pool.map(_ask_disk, alive), strict=True))
        if all(health == SILENT for health in healths.values()):
            healths = {}  # their addresses are not reachable from here, like a cluster's from a laptop
    else:
        healths = {member.name: known[member.name] for member in alive if member.name in known}
    for member in after.members:
        counters = earlier.get(member.incarnation)
        yield MemberReading(
            role=member.role,
            name=member.name,
            alive=member.alive,
            seconds_since_heartbeat=member.seconds_since_heartbeat,
            health=healths.get(member.name) if member.alive else None,
            gauges=dict(member.gauges),
            rates={} if counters is None else _rates(counters, member.counters, seconds),
            disk_free=disks.get(member.name) if member.alive else None,
        )


def _ask_health(member: Member) -> str:
    return health_of(member.health_address, ANSWER_SECONDS)


def _ask_disk(member: Member) -> float | None:
    found = scrape(member.metrics_address, ANSWER_SECONDS)
    return found[DISK_FREE] / found[DISK_SIZE] if DISK_FREE in found else None


def _rates(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> dict[str, float]:
    return {name: max(0.0, value - before.get(name, 0.0)) / seconds for name, value in after.items()}

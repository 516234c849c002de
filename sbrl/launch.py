"""`sbrl train`: all roles of a run as processes on this machine, from one config."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sbrl import config as configs
from sbrl.config import Config
from sbrl.curves import write_learning_curve
from sbrl.envs.probe import probe
from sbrl.episode_log import LogClient
from sbrl.errors import RunError, UsageError
from sbrl.fleet import FleetClient, RunState
from sbrl.fleet_watch import FleetWatch, SilenceNotice, run_state
from sbrl.local_prometheus import LocalPrometheus, NoPrometheus, Prometheus
from sbrl.metadata import check_same_environment, new_run_id, run_id_of, run_metadata
from sbrl.networks.checks import check_device, check_network
from sbrl.ports import check_host, check_port_free, free_ports, host_port, split_address
from sbrl.progress import ProgressMeter
from sbrl.results import RunResults
from sbrl.rpc import CoordinatorUnavailable
from sbrl.run_directory import RunDirectory, replace_text
from sbrl.summary import run_so_far
from sbrl.supervisor import RoleCommand, Supervisor
from sbrl.v1.fleet_pb2 import Evaluation, GetStatusResponse
from sbrl.view import View, make_view
from sbrl.weights_and_biases import check_wandb

LOOK_SECONDS = 0.5
LAST_STATUS_SECONDS = 10.0
LAST_GENERATION_SECONDS = 600.0  # a large shard's checkpoint takes minutes
CORES_PER_ACTOR = 2


def train(config: Config, run_directory: RunDirectory, resume: bool, with_prometheus: bool = False) -> bool:
    """Runs a whole run, or the rest of one, and leaves its results in the run directory.

    Returns whether the run is complete; False: it was interrupted, and can be resumed.

    Args:
        with_prometheus: a Prometheus is configured for the run, and started where there is one.

    Raises:
        UsageError, RunError: bad input, or a role that cannot be kept alive; nothing that was there is overwritten.
    """
    # All that can be found out before anything is made.
    check_wandb(config.run)
    check_device(config.learner.device)
    spec = probe(config.env)
    check_network(config, spec)
    if resume:
        check_same_environment(run_directory.config, config.env.id, spec)
        check_incomplete(config, run_directory)
    else:
        run_directory.check_new()
        config = place(config)
    with run_directory.lock() as lock:
        if resume:
            config = place(config)  # now that no role of an earlier session holds a port any more
        run_id = run_id_of(run_directory.config) if resume else new_run_id(config.env.id)
        replace_text(run_directory.config, configs.dump(config, run_metadata(run_id, spec)))
        with _stop_on_signals() as stop, make_view(config, f"{config.env.id} in {run_directory.path}") as view:
            prometheus = make_prometheus(run_directory, view) if with_prometheus else NoPrometheus()
            commands = role_commands(config, run_directory, resume=time.time_ns() if resume else None)
            return _LocalRun(config, run_directory, stop, view, lock, prometheus, commands).run()


def make_prometheus(run_directory: RunDirectory, view: View) -> LocalPrometheus:
    """The run's Prometheus, which names the run by its folder."""
    return LocalPrometheus(run_directory.prometheus, run_directory.path.resolve().name, view.message)


def place(config: Config) -> Config:
    """The config with what was left open decided for this machine: ports of loopback and the number of actors.

    Raises:
        UsageError: one port for the health or metrics of all processes, or an address that this machine does not have.
        RunError: a port that was asked for is taken.
    """
    network, host = config.network, config.network.bind_host
    for name in ("health_port", "metrics_port"):
        if getattr(network, name):
            raise UsageError(
                f"network.{name}={getattr(network, name)} would be every process's in a run on one machine: leave it 0, and "
                f"each takes a free one, which its log names"
            )
    check_host(host)
    chosen = free_ports(host, 1 + config.replay.num_shards)
    coordinator = network.coordinator_address
    if coordinator.endswith(":0"):
        coordinator = host_port(host, chosen[0])
    shards = network.replay_addresses or tuple(host_port(host, port) for port in chosen[1:])
    for address in (coordinator, *shards):
        check_port_free(*split_address(address))
    num_actors = config.actors.num_actors or max(1, len(os.sched_getaffinity(0)) // CORES_PER_ACTOR)
    tree = config.model_dump(mode="json")
    tree["network"].update(coordinator_address=coordinator, replay_addresses=list(shards))
    tree["actors"]["num_actors"] = num_actors
    return configs.build(tree)


def check_incomplete(config: Config, run_directory: RunDirectory) -> None:
    """
    Raises:
        UsageError: the run in the directory has collected and trained all that the config asks for.
    """
    summary = run_so_far(run_directory.summary)
    if summary.complete and summary.env_steps >= config.run.env_steps:
        raise UsageError(
            f"the run in {run_directory.path} is complete with {summary.env_steps} env steps: "
            f"to go on, ask for more than these with run.env_steps=N"
        )


def load_for_resume(run_directory: RunDirectory, overrides: list[str]) -> Config:
    """The config of an earlier run, with ports to be chosen anew and `overrides` on top.

    Raises:
        UsageError: no run, a config of another schema, a bad override, or one of a setting that is fixed for a run.
    """
    run_directory.check_resumable()
    tree = configs.read_yaml(run_directory.config)
    network = configs.build(tree).network.model_dump(mode="json")
    tree["network"] = {**network, "coordinator_address": "127.0.0.1:0", "replay_addresses": []}
    config = configs.build(tree, *(configs.parse_override(text) for text in overrides))
    check_resumable_with(configs.build(tree), config)
    return config


def check_resumable_with(before: Config, after: Config) -> None:
    """
    Raises:
        UsageError: a setting was changed that the run's network, its stored transitions or its shards depend on.
    """
    fixed = [
        ("run", ["seed"]),  # resets draw from it
        ("env", list(configs.Env.model_fields)),
        (
            "agent",
            [
                *("algorithm", "dueling", "noisy", "stored_steps", "predicts_itself", "torso", "width_scale", "layer_norm"),
                *("hidden_size", "num_atoms", "v_min", "v_max", "num_quantiles", "tau_embedding_size"),
            ],
        ),
        ("replay", ["num_shards", "min_size", "prioritized"]),
    ]
    for section, names in fixed:
        for name in names:
            was, now = (getattr(getattr(config, section), name) for config in (before, after))
            if was != now:
                raise UsageError(
                    f"{section}.{name} was {was!r} and cannot become {now!r} in a run that is resumed: its network, its stored "
                    f"transitions or its shards were made with it; start a new run for another value"
                )


def role_commands(config: Config, run_directory: RunDirectory, resume: int | None = None) -> list[RoleCommand]:
    """Every role process of a local run; stopped in this order: those who write before those who are written to.

    Args:
        resume: goes back to the newest generation, once for each such number.
    """
    common = ["--config", str(run_directory.config), "--run-dir", str(run_directory.path)]

    def command(name: str, module: str, stop_order: int, *extra: str) -> RoleCommand:
        # A shard's last checkpoint takes as long as its data is large.
        drain_seconds = 600.0 if module == "services.replay" else 60.0
        return RoleCommand(name, module, [*common, "--name", name, *extra], run_directory.log(name), stop_order, drain_seconds)

    return [
        command("coordinator", "services.coordinator", 3, *([] if resume is None else ["--resume", str(resume)])),
        *(command(f"replay-{k}", "services.replay", 2, "--shard", str(k)) for k in range(config.replay.num_shards)),
        command("learner", "learner", 1),
        *(command(f"actor-{k}", "actors", 0) for k in range(config.actors.num_actors or 1)),
        command("evaluator", "services.evaluator", 0),
    ]


class _LocalRun:
    def __init__(
        self,
        config: Config,
        run_directory: RunDirectory,
        stop: threading.Event,
        view: View,
        lock: int,
        prometheus: Prometheus,
        commands: list[RoleCommand],
    ) -> None:
        self._prometheus = prometheus
        self._config, self._directory, self._stop, self._view = config, run_directory, stop, view
        self._fleet = FleetClient(config.network.coordinator_address)
        self._watch = FleetWatch(self._fleet, LOOK_SECONDS)
        self._supervisor = Supervisor(commands, self._may_end, view.message, keep_open=lock)
        self._start = time.monotonic()
        self._end: float | None = None  # of training: what comes after is not counted in wall_seconds
        self._earlier_seconds = run_so_far(run_directory.summary).wall_seconds
        self._results = RunResults(config, run_directory, self._fleet, self._wall_seconds, view.message)

    def run(self) -> bool:
        try:
            self._prometheus.start()
            self._supervisor.start()
            self._watch.start()
            self._results.start()
            complete = self._supervise()
            self._end = time.monotonic()
            if complete:
                self._supervisor.stop_only("evaluator")
                self._evaluate()
            else:
                self._view.message("stopping: actors drain, the learner and the shards save ...")
                self._supervisor.stop_only("actor")
                self._supervisor.stop_only("evaluator")
                self._supervisor.stop_only("learner")
            self._await_generation()
            status = self._last_status()
            self._results.finish(status, complete)
            directory = self._directory
            write_learning_curve(directory.episodes, directory.evaluations, directory.learning_curve, self._config)
        finally:
            self._watch.stop()
            self._results.close()
            self._supervisor.stop()
            self._fleet.close()
            self._prometheus.stop()  # last, so that it has seen the end
        return complete

    def _supervise(self) -> bool:
        """Keeps the roles alive until the run is complete (True) or told to stop (False)."""
        meter = ProgressMeter(self._config)
        silence = SilenceNotice(self._watch, self._view.message)
        while not self._stop.wait(LOOK_SECONDS):
            self._supervisor.check()
            silence.look()
            self._prometheus.look(self._watch.status)
            if self._watch.status.members:
                self._view.show(meter.read(self._watch.status))
            if self._supervisor.is_done("learner"):
                return True
        return False

    def _wall_seconds(self) -> float:
        """Of training, over all sessions of the run."""
        return self._earlier_seconds + (self._end or time.monotonic()) - self._start

    def _may_end(self, name: str) -> bool:
        """Whether a role that exited with code 0 is done: actors when all is collected, learner and evaluator at the end."""
        try:
            # Asked now: the learner ends the run and its own process within less than the watch's interval.
            state = run_state(self._fleet.status())
        except CoordinatorUnavailable:
            state = run_state(self._watch.status)
        if name.startswith("actor"):
            return state in (RunState.COLLECTED, RunState.FINISHED)
        return name in ("learner", "evaluator") and state is RunState.FINISHED

    def _await_generation(self) -> None:
        """Waits for the last generation, which the learner orders as it ends: the shards are saving theirs."""
        deadline = time.monotonic() + LAST_GENERATION_SECONDS
        while time.monotonic() < deadline:
            status = self._last_status()
            if not status.generation_ordered or (
                status.generations and status.generations[-1].generation == status.generation_ordered
            ):
                return
            self._supervisor.check()
            time.sleep(LOOK_SECONDS)
        self._view.message("the last generation of checkpoints is not complete: a resumed run goes on from the one before")

    def _evaluate(self) -> None:
        """The final evaluation, on the last checkpoint, and the video."""
        self._view.message("evaluating the final agent ...")
        result = self._directory.logs / "final-evaluation.json"
        if self._run_tool("services.evaluator.evaluate", "--json", str(result)):
            evaluation = Evaluation(**json.loads(result.read_text(encoding="utf-8")))
            evaluation.weights_version = self._watch.status.weights_version  # the last ones published are the checkpoint's
            log = LogClient(self._config.network.coordinator_address)
            try:
                log.append_evaluation(evaluation)
            except RunError as error:
                self._view.message(f"the final evaluation is not in the log, only in {result}: {error}")
            finally:
                log.close()
        self._view.message("recording a video ...")
        self._run_tool("services.evaluator.play", "--output", str(self._directory.video))

    def _run_tool(self, module: str, *arguments: str) -> bool:
        """Runs a program on the run directory; a failure is said, and costs the run no more than this program's result."""
        log_path = self._directory.log(module.rpartition(".")[2])
        with log_path.open("ab") as log:
            command = [sys.executable, "-P", "-m", module, str(self._directory.path), *arguments]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
                while process.poll() is None:
                    self._supervisor.check()
                    if self._stop.wait(LOOK_SECONDS):
                        process.terminate()
                        break
        if process.returncode != 0:
            self._view.message(f"{module} failed with exit code {process.returncode}: see {log_path}")
        return process.returncode == 0

    def _last_status(self) -> GetStatusResponse:
        """The coordinator's newest answer, waited for while it is being restarted.

        Raises:
            RunError: it does not answer any more.
        """
        deadline = time.monotonic() + LAST_STATUS_SECONDS
        while True:
            try:
                return self._fleet.status()
            except CoordinatorUnavailable as error:
                if time.monotonic() > deadline:
                    raise RunError(f"no results: {error}; resume the run with --resume to get them") from None
                self._supervisor.check()
                time.sleep(LOOK_SECONDS)


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one kills the launcher (and the kernel then stops the roles)."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A run on this machine from start to end: keeps roles alive, evaluates, stops them in order, writes results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

from sbrl.config import Config
from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.fleet import FleetClient, RunState
from sbrl.coordination.fleet_watch import FleetWatch, SilenceNotice, run_state
from sbrl.errors import RunError, SbrlError
from sbrl.local.draining import Draining
from sbrl.local.guard import Guard, kill_session
from sbrl.local.prometheus import Prometheus
from sbrl.local.results import RunResults
from sbrl.local.supervisor import RoleCommand, Supervisor
from sbrl.monitor.learning_curve import write_learning_curve
from sbrl.monitor.progress import ProgressMeter
from sbrl.monitor.summary import run_so_far, shortfall
from sbrl.monitor.view import View
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.runtime.parent_death import PARENT_VARIABLE
from sbrl.runtime.program import describe
from sbrl.runtime.stop_signals import StopRequest
from sbrl.storage.run_directory import RunDirectory
from sbrl.v1.episodes_pb2 import Evaluation
from sbrl.v1.fleet_pb2 import GetStatusResponse

LOOK_SECONDS = 0.5
STATUS_SECONDS = 2.0  # time limit for one answer of the coordinator during a stop
LAST_STATUS_SECONDS = 10.0
PATIENCE_SECONDS = 600.0  # time for shards that are writing a large checkpoint
TOOL_SECONDS = 2.0  # time for a tool to end after SIGTERM

# Seconds left of a stop (`StopRequest.seconds_left`) when each part of it ends.
HEAD_START = 21.0  # actors stop before the learner, whose sampling makes room for their last items
TRAINED = 9.0  # actors, evaluator and learner have ended
TRAINED_IN_A_HURRY = 4.0
SAVED = 2.0  # the shards have ended
SERVED = 0.5  # the coordinator has ended


class LocalRun:
    """All roles of a run as processes."""

    def __init__(
        self,
        config: Config,
        run_directory: RunDirectory,
        stop: StopRequest,
        view: View,
        lock: int,
        prometheus: Prometheus,
        commands: list[RoleCommand],
        guard: Guard,
    ) -> None:
        self._prometheus, self._guard = prometheus, guard
        self._config, self._directory, self._stop, self._view = config, run_directory, stop, view
        self._fleet = FleetClient(config.network.coordinator_address)
        self._watch = FleetWatch(self._fleet, LOOK_SECONDS)
        self._supervisor = Supervisor(commands, self._may_end, view.message, keep_open=lock, guarded=guard.watch)
        self._start = time.monotonic()
        self._end: float | None = None  # end of training: wall_seconds does not count the time after it
        self._earlier_seconds = run_so_far(run_directory.summary).wall_seconds
        self._results = RunResults(config, run_directory, self._fleet, self._wall_seconds, view.message)

    def run(self) -> bool:
        """Runs to the end. Returns True if the run is complete, False if it was told to stop.

        Raises:
            RunError: a role cannot be kept alive, training ended with samples missing, or the final evaluation or the results
                failed. The available results are written anyway.
        """
        complete = False
        try:
            self._guard.start()
            self._prometheus.start()
            self._supervisor.start("coordinator", "replay", "learner", "actor")
            self._watch.start()
            self._results.start()
            complete = self._supervise() and self._conclude()
        except SbrlError:
            self._stop_in_order(complete=False, say=self._view.message)
            raise
        else:
            problems: list[str] = []
            self._stop_in_order(complete, problems.append)
            if complete and problems:
                raise RunError("; ".join(problems))
            for problem in problems:
                self._view.message(problem)
        finally:
            self._results.begin_end()
            self._watch.stop()
            self._supervisor.kill("")
            self._results.close()
            self._fleet.close()
            self._prometheus.stop()  # last, so that it records the end
            self._guard.close()
        return complete

    def _supervise(self) -> bool:
        """Keeps the roles alive until the learner has ended (True) or the run is told to stop (False)."""
        meter = ProgressMeter(self._config)
        silence = SilenceNotice(self._watch, self._view.message)
        while not self._stop.wait(LOOK_SECONDS):
            self._supervisor.check()
            self._prometheus.look(self._watch.status)
            silence.look()
            if self._watch.status.progress.updates:
                # Only now: until the first update the others need all cores, and there is nothing to evaluate.
                self._supervisor.start("evaluator")
            if self._watch.status.members:
                self._view.show(meter.read(self._watch.status))
            if self._supervisor.is_done("learner"):
                return True
        return False

    def _wall_seconds(self) -> float:
        """Seconds of training, over all sessions of the run."""
        return self._earlier_seconds + (self._end or time.monotonic()) - self._start

    def _may_end(self, name: str) -> bool:
        """Whether a role that exited with code 0 is done: actors after all steps, learner and evaluator at the end."""
        try:
            # Ask now: the learner ends the run and its own process within less than the watch's interval.
            state = run_state(self._fleet.status())
        except CoordinatorUnavailable:
            state = run_state(self._watch.status)
        if name.startswith("actor"):
            return state in (RunState.COLLECTED, RunState.FINISHED)
        return name in ("learner", "evaluator") and state is RunState.FINISHED

    def _conclude(self) -> bool:
        """The work after the training. Returns False if the run was told to stop.

        Raises:
            RunError: samples are missing, or the final evaluation has failed.
        """
        self._end = time.monotonic()
        self._supervisor.terminate("evaluator")
        status = self._last_status()
        missing = shortfall(self._config, status)
        if missing:
            raise RunError(f"the run is not complete: {missing}")
        evaluated = self._evaluate(status.weights_version)
        if self._stop.is_requested:
            return False
        if not evaluated:
            raise RunError(
                f"the run is trained, but its final evaluation failed: see {self._directory.log('evaluate')}; "
                f"`sbrl train --resume --run-dir {self._directory.path}` repeats it"
            )
        return True

    def _last_status(self) -> GetStatusResponse:
        """The coordinator's newest answer. Waits while the coordinator is being restarted.

        Raises:
            RunError: it no longer answers.
        """
        deadline = time.monotonic() + LAST_STATUS_SECONDS
        while (status := self._answer()) is None:
            if time.monotonic() > deadline:
                raise RunError("the coordinator does not answer at the end of the run: go on with it by --resume")
            self._supervisor.check()
            time.sleep(LOOK_SECONDS)
        return status

    def _stop_in_order(self, complete: bool, say: Callable[[str], None]) -> None:
        """Stops the writers before the roles they write to, within the time left, and writes the results in between.

        Args:
            say: called with each problem with the results.
        """
        supervisor, stop = self._supervisor, self._stop
        self._end = self._end or time.monotonic()
        stop.begin()
        supervisor.begin_stop()
        self._results.begin_end()
        writers = ("actor", "evaluator", "learner")
        supervisor.terminate("actor", "evaluator")
        supervisor.await_end(lambda: stop.seconds_left > HEAD_START, "actor", "evaluator")
        supervisor.terminate("learner")
        supervisor.await_end(lambda: stop.seconds_left > (TRAINED_IN_A_HURRY if stop.is_urgent else TRAINED), *writers)
        supervisor.kill(*writers)
        try:
            self._write_tables(complete)
        except SbrlError as error:
            say(str(error))
        draining = Draining(supervisor.process_ids("replay"))
        supervisor.terminate("replay")
        try:
            self._draw_curve()
        except (SbrlError, OSError) as error:
            say(f"no learning curve: {error}")
        start = time.monotonic()
        supervisor.await_end(lambda: self._may_save(draining, stop.seconds_left > SAVED, time.monotonic() - start), "replay")
        supervisor.kill("replay")
        supervisor.terminate("coordinator")
        supervisor.await_end(lambda: stop.seconds_left > SERVED, "coordinator")
        supervisor.kill("coordinator")

    def _may_save(self, draining: Draining, in_time: bool, waited: float) -> bool:
        """Whether to wait for the shards: past the usual time only if they make progress and nobody has asked again."""
        gets_on = draining.is_getting_on()
        return in_time or (gets_on and not self._stop.is_urgent and waited < PATIENCE_SECONDS)

    def _evaluate(self, weights_version: int) -> bool:
        """Makes the final evaluation of the last checkpoint, and the video. Returns whether the evaluation succeeded.

        Args:
            weights_version: the last published version, which is that of the checkpoint.
        """
        self._view.message("evaluating the final agent ...")
        result = self._directory.logs / "final-evaluation.json"
        if not self._run_tool("services.evaluator.evaluate", "--json", str(result)):
            return False
        evaluation = Evaluation(**json.loads(result.read_text(encoding="utf-8")))
        evaluation.weights_version = weights_version
        log = LogClient(self._config.network.coordinator_address)
        try:
            log.append_evaluation(evaluation)
        except RunError as error:
            raise RunError(f"the final evaluation is not in the log, only in {result}: {error}") from None
        finally:
            log.close()
        self._view.message("recording a video ...")
        self._run_tool("services.evaluator.play", "--output", str(self._directory.video))
        return True

    def _run_tool(self, module: str, *arguments: str) -> bool:
        """Runs a program on the run directory, unless told to stop. Reports a failure. Returns whether it succeeded."""
        log_path = self._directory.log(module.rpartition(".")[2])
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(self._directory.path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )
        self._guard.watch(process.pid)
        try:
            while process.poll() is None:
                self._supervisor.check()
                if self._stop.wait(LOOK_SECONDS):
                    return False
        finally:
            if process.poll() is None:
                end_tool(process)
        if process.returncode != 0:
            self._view.message(f"{module} failed with {describe(process.returncode)}: see {log_path}")
        return process.returncode == 0

    def _write_tables(self, complete: bool) -> None:
        """Updates summary and tables.

        Raises:
            RunError: some of them could not be updated; the message has the reason.
        """
        status = self._answer()
        known = status or self._watch.status
        if not known.state:
            raise RunError("no results: the coordinator has not answered; resume the run with --resume to get them")
        self._results.finish(
            known, complete, has_log=status is not None, may_go_on=lambda: complete or self._stop.seconds_left > SAVED
        )
        if status is None:
            raise RunError("the coordinator does not answer: the results are those of some seconds before")

    def _draw_curve(self) -> None:
        directory = self._directory
        if directory.episodes.exists() and directory.evaluations.exists():
            write_learning_curve(directory.episodes, directory.evaluations, directory.learning_curve, self._config)

    def _answer(self) -> GetStatusResponse | None:
        """The coordinator's answer; None if there is none in time."""
        try:
            return self._fleet.status(STATUS_SECONDS)
        except CoordinatorUnavailable:
            return None


def end_tool(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM to a program that leads a session, and kills it if it does not end."""
    process.terminate()
    try:
        process.wait(TOOL_SECONDS)
    except subprocess.TimeoutExpired:
        kill_session(process.pid)
        process.wait()

"""Runs of the real programs, made small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sbrl.config import load
from sbrl.coordination.fleet import FleetClient
from sbrl.monitor.observation import processes_of
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member

# CartPole with a small network: a whole run of all roles in well under a minute.
FAST = (
    "env.id=CartPole-v1",
    "agent.hidden_size=32",
    "agent.num_quantiles=16",
    "learner.publish_period=50",
    "evaluator.interval_env_steps=1000",
    "evaluator.episodes=2",
    "evaluator.num_envs=2",
)
POLL_SECONDS = 0.2


def sbrl(*arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end, without the settings for TensorFlow's messages that imports made in this process."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "sbrl.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)


class LocalRun:
    """A `sbrl train` in the background."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        module: str = "sbrl.cli",
        environment: Mapping[str, str] | None = None,
        has_reader: bool = True,
    ) -> None:
        """
        Args:
            module: the module whose command `train` is run.
            environment: the process's environment variables; None: this process's.
            has_reader: whether its output is read; if False, it is a pipe that nobody reads.
        """
        self.directory = directory
        self.output = directory.with_name(f"{directory.name}.out")
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "train", "--run-dir", str(directory), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output if has_reader else subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def status(self) -> GetStatusResponse | None:
        """The coordinator's answer; None while it does not answer."""
        config_path = self.directory / "run.yaml"
        if not config_path.is_file():
            return None
        client = FleetClient(load(config_path).network.coordinator_address)
        try:
            return client.status(timeout=2.0)
        except CoordinatorUnavailable:
            return None
        finally:
            client.close()

    def wait_for(self, condition: Callable[[GetStatusResponse], bool], what: str, timeout: float) -> GetStatusResponse:
        """Polls until the condition holds for a status."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"ended while waiting for {what}:\n{self.text()}"
            status = self.status()
            if status is not None and condition(status):
                return status
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"no {what} within {timeout:.0f} s:\n{self.text()}\n{self.logs()}")

    def wait(self, timeout: float) -> int:
        """The exit code."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout:.0f} s:\n{self.text()}\n{self.logs()}") from None

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def kill_all(self) -> None:
        """Kills the launcher and all roles at once. The launcher is stopped first, so that it restarts none of them."""
        self._process.send_signal(signal.SIGSTOP)
        for process in processes_of(self.directory):
            kill(process.process_id)
        self.kill()
        # A role that was just being started also has the run's lock.
        deadline = time.monotonic() + 30
        while left := processes_of(self.directory):
            assert time.monotonic() < deadline, f"{left} outlived the launcher"
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def logs(self) -> str:
        """The ends of all logs, for failure messages."""
        logs = sorted((self.directory / "logs").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-1500:]}" for log in logs)

    def log(self, name: str) -> str:
        return (self.directory / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.directory / "summary.json").read_text(encoding="utf-8"))
        return loaded


def member(status: GetStatusResponse, role: str, name: str) -> Member | None:
    """A live member, or None."""
    return next((one for one in status.members if one.role == role and one.name == name and one.alive), None)


def kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., LocalRun]]:
    """Starts or resumes runs in tmp_path/run, and ends all remaining processes."""
    runs: list[LocalRun] = []

    def start(*arguments: str) -> LocalRun:
        runs.append(LocalRun(tmp_path / "run", *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.close()

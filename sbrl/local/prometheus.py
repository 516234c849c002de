"""The Prometheus of a local run (`sbrl train --prometheus`): its targets, its start and its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sbrl.errors import RunError
from sbrl.local.prometheus_config import CONFIG, RULES, TARGETS, write_config, write_targets
from sbrl.rpc.ports import free_ports
from sbrl.runtime.parent_death import PARENT_VARIABLE
from sbrl.runtime.program import describe
from sbrl.v1.fleet_pb2 import GetStatusResponse

HOST = "127.0.0.1"
PROGRAM = "prometheus"
TOOLS = Path(sys.prefix) / "tools" / "bin"  # scripts/prometheus.sh puts prometheus and promtool here without installing them
HOW_TO_GET = "apt-get install prometheus on Debian and Ubuntu, elsewhere https://prometheus.io/download"
DATA, LOG = "data", "prometheus.log"
RETENTION = ("--storage.tsdb.retention.time=90d", "--storage.tsdb.retention.size=4GB")
STOP_SECONDS = 4.0  # killing it after that loses nothing: its memory is also in its log on disk
AGAIN_SECONDS = 60.0


def find_program(name: str) -> str | None:
    """The path of one of Prometheus's programs, installed or among this environment's tools; None if it is missing."""
    return shutil.which(name) or shutil.which(name, path=TOOLS)


class Prometheus(Protocol):
    """The monitoring of a local run."""

    def start(self) -> None: ...
    def look(self, status: GetStatusResponse) -> None: ...
    def stop(self) -> None: ...


class NoPrometheus:
    """No monitoring."""

    def start(self) -> None:
        return None

    def look(self, status: GetStatusResponse) -> None:
        return None

    def stop(self) -> None:
        return None


class LocalPrometheus:
    """A server on a free loopback port. One folder in the run directory holds its files.

    These are configuration, targets, rules, data and log. The run continues without the server: if it is not installed or has
    ended, the user gets a message.
    """

    def __init__(
        self,
        directory: Path,
        release: str,
        say: Callable[[str], None],
        guarded: Callable[[int], None] = lambda process_id: None,
    ) -> None:
        """
        Args:
            directory: the folder for all of its files.
            release: the run's name, a label of all its series.
            say: tells the user where to look, and what happened.
            guarded: called with the server's process, which must not outlive this one.
        """
        self._directory, self._release, self._say, self._guarded = directory, release, say, guarded
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at: float | None = None
        self._problem = ""

    def start(self) -> None:
        """Writes the configuration and starts the server."""
        config = write_config(self._directory)
        if not any((self._directory / RULES).iterdir()):
            self._say("no alert rules: this installation of sbrl comes without them")
        if find_program(PROGRAM) is None:
            self._say(
                f"prometheus is not installed, so nothing scrapes the run ({HOW_TO_GET}); once it is: "
                f"prometheus --config.file={config} --storage.tsdb.path={self._directory / DATA}"
            )
            return
        self._spawn()

    def look(self, status: GetStatusResponse) -> None:
        """Keeps the targets up to date and restarts a server that has ended. Call this about once a second."""
        if status.members:
            self._keep_targets(status)
        now = time.monotonic()
        if self._again_at is not None and now >= self._again_at:
            self._spawn()
        elif self._process is not None and (code := self._process.poll()) is not None:
            self._say(
                f"prometheus ended ({describe(code)}), see {self._directory / LOG}; the run goes on, "
                f"and it is started again in {AGAIN_SECONDS:.0f} s"
            )
            self._process, self._again_at = None, now + AGAIN_SECONDS

    def stop(self) -> None:
        """Ends the server. Its collected data stays."""
        process, self._process, self._again_at = self._process, None, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _keep_targets(self, status: GetStatusResponse) -> None:
        """Updates the targets. A failure, such as a full disk, must not end the run."""
        problem = ""
        try:
            write_targets(self._directory / TARGETS, status, self._release)
        except (RunError, OSError) as error:
            problem = f"prometheus goes on with old targets: {error}"
        if problem and problem != self._problem:  # once, not twice a second
            self._say(problem)
        self._problem = problem

    def _spawn(self) -> None:
        self._again_at = None
        (port,) = free_ports(HOST, 1)
        directory = self._directory
        command = [
            *(
                sys.executable,
                "-P",
                "-m",
                "sbrl.runtime.parent_death",
                find_program(PROGRAM) or PROGRAM,
            ),  # a killed launcher leaves no server behind
            f"--config.file={directory / CONFIG}",
            f"--storage.tsdb.path={directory / DATA}",
            *RETENTION,
            f"--web.listen-address={HOST}:{port}",
        ]
        with (directory / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C only reaches the launcher
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )
        self._guarded(self._process.pid)
        self._say(
            f"prometheus: http://{HOST}:{port}/alerts and /graph, until the run ends; its data stays in {directory / DATA}"
        )

"""`sbrl top` and `sbrl doctor` for a release: a stand-in for the Kubernetes API, a real coordinator behind it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

from sbrl.cli import __main__ as cli
from sbrl.cluster import watch
from sbrl.errors import RunError, UsageError
from sbrl.monitor.doctor import WRONG
from tests.integration.test_controller_tools import (  # noqa: F401  # fixtures
    LIMIT,
    coordinator,
    pod,
    release,
)

# ruff: noqa: F811


@pytest.fixture
def judged(tool, capsys):
    """The doctor's output and exit code."""
    codes = []

    def judge(*arguments):
        said = tool(lambda argv: codes.append(watch.main(["doctor", *argv])), "--seconds", "1.5", *arguments)
        return codes[-1], said

    return judge


def test_top_shows_the_release_as_it_shows_a_local_run(api, tool, coordinator):
    release(api)
    coordinator()
    said = tool(lambda argv: watch.main(["top", *argv]), "--readings", "2", "--interval", "0.5")
    first, second = said.splitlines()
    for line in (first, second):
        assert line.startswith("5,000/100,000 steps (5%")
        assert "SPI 2.000/2" in line


def test_doctor_names_a_pod_that_cannot_run_first_and_who_is_missing(api, judged, coordinator):
    release(api)
    coordinator()
    code, said = judged()
    assert code == WRONG
    assert said.startswith("5,000 of 100,000 env steps")
    assert re.search(r"^1\. pod sbrl-actors-2 \(actor\) is not ready: CrashLoopBackOff, after 4 restarts$", said, re.MULTILINE)
    assert "kubectl logs sbrl-actors-2 --previous" in said
    # The Deployment asks for three actors; the config's own number is for local runs.
    assert "2 of 3 actors have never reported to the coordinator" in said


def test_doctor_passes_over_pods_that_are_on_their_way_or_no_role(api, judged, coordinator):
    release(api)
    pod(api, "actor", "sbrl-actors-2", ready=True)
    pod(api, "check", "sbrl-check", ready=False)
    api.get("pods", "sbrl-replay-0")["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ContainerCreating"}}
    coordinator()
    _, said = judged()
    assert "is not ready" not in said


def test_doctor_of_a_coordinator_that_does_not_answer(api, judged, coordinator):
    release(api)
    pod(api, "actor", "sbrl-actors-2")
    coordinator()
    with socket.create_server(("127.0.0.1", 0)) as free:
        api.ports["sbrl-coordinator-0"] = free.getsockname()[1]
    code, said = judged()
    assert code == WRONG
    assert "the coordinator's pod sbrl-coordinator-0 runs but does not answer" in said
    assert "kubectl delete pod sbrl-coordinator-0" in said


def test_without_a_coordinator_there_is_one_line(api, tool):
    with pytest.raises(RunError, match="the coordinator of release sbrl does not run: it has no pod"):
        tool(lambda argv: watch.main(["doctor", *argv]))


def test_other_commands_are_refused():
    with pytest.raises(UsageError, match="top and doctor are"):
        watch.main(["play"])


@pytest.mark.parametrize(
    ("argv", "module"),
    [
        (["doctor", "runs/pong"], "sbrl.monitor.doctor"),
        (["doctor", "--coordinator", "a:1"], "sbrl.monitor.doctor"),
        (["doctor", "-n", "rl"], "sbrl.cluster.watch"),
        (["top", "--release=pong"], "sbrl.cluster.watch"),
        (["top", "runs/pong"], "sbrl.monitor.top"),
        (["status", "-n", "rl"], "sbrl.cluster.status"),
    ],
)
def test_the_command_line_finds_out_what_is_meant(monkeypatch, argv, module):
    class Executed(Exception):
        pass

    def execute(program, command):
        raise Executed(command)

    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(Executed) as executed:
        cli.run(argv)
    (command,) = executed.value.args
    assert command[3] == module
    assert command[4:] == (argv if module.endswith("watch") else argv[1:])


def test_help_of_both_names_a_release():
    for command in ("top", "doctor"):
        words = [sys.executable, "-m", "sbrl.cli", command]
        for arguments in (["--help"], ["-n", "rl", "--help"]):
            done = subprocess.run([*words, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)
            assert done.returncode == 0
            assert "--release" in done.stdout

"""The controller with a real fleet of processes (all roles), scaled through the API's stand-in.

The stand-in has no kubelet: the test starts and stops actors as the Deployment's replicas say.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from sbrl.config import build, dump
from sbrl.rpc.ports import free_ports
from tests.integration.kubernetes_stand_in import ApiStandIn, stand_in

LIMIT = 900.0
ACTORS = "sbrl-actors"
WINDOWS = {"--settle-seconds": 20, "--urgent-window-seconds": 20, "--window-seconds": 40, "--interval-seconds": 2}


class Role(NamedTuple):
    """A process, and the command to start it again."""

    module: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]


class Roles:
    """A run's processes. Dead ones are started again, as by a kubelet."""

    def __init__(self, directory: Path, updates_per_step: float) -> None:
        coordinator, replay = free_ports("127.0.0.1", 2)
        config = build(
            {
                "run": {"env_steps": 50_000_000},
                "env": {"id": "CartPole-v1"},
                "agent": {"hidden_size": 64},
                "learner": {"updates_per_step": updates_per_step},
                "replay": {"num_shards": 1, "min_size": 2000, "capacity": 100_000},
                "actors": {"envs_per_actor": 2},
                "network": {
                    "coordinator_address": f"127.0.0.1:{coordinator}",
                    "replay_addresses": [f"127.0.0.1:{replay}"],
                },
            }
        )
        self._directory, self._started = directory, 0
        (directory / "run.yaml").write_text(dump(config))
        self._running: dict[str, Role] = {}

    def start(self, module: str, name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, "--config", str(self._directory / "run.yaml"), "--name", name, *arguments]
        with (self._directory / f"{name}.log").open("ab") as log:
            self._running[name] = Role(module, arguments, subprocess.Popen(command, stderr=log))

    def follow(self, actors: int) -> None:
        """Starts and stops processes until this many actors, and all other roles, are alive."""
        for name, role in list(self._running.items()):
            if role.process.poll() is not None:
                self.start(role.module, name, *role.arguments)
        names = [name for name in self._running if name.startswith("actor")]
        for name in names[actors:]:
            self._running.pop(name).process.terminate()
        for _ in range(actors - len(names)):
            self._started += 1
            self.start("actors", f"actor-{self._started}")

    def stop(self) -> None:
        for role in self._running.values():
            role.process.terminate()
        for role in self._running.values():
            try:
                role.process.wait(30)
            except subprocess.TimeoutExpired:
                role.process.kill()
                role.process.wait()


def scaled(api: ApiStandIn, roles: Roles, until: int) -> list[str]:
    """Runs until the Deployment has `until` actors; returns the events' reasons."""
    deadline = time.monotonic() + LIMIT
    while (replicas := api.get("deployments", ACTORS)["spec"]["replicas"]) != until:
        assert time.monotonic() < deadline, (replicas, api.all("events"))
        roles.follow(replicas)
        time.sleep(0.5)
    return [event["reason"] for event in api.all("events")]


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize(
    ("updates_per_step", "first", "last", "reasons"),
    [
        pytest.param(1.0, 3, 1, {"ScaledDown"}, id="the learner is the bottleneck"),
        pytest.param(1 / 64, 1, 2, {"ScaledUp"}, id="the actors are the bottleneck"),
    ],
)
def test_a_real_fleet_gets_the_actors_it_needs(
    tmp_path: Path, updates_per_step: float, first: int, last: int, reasons: set[str]
):
    with stand_in() as api:
        api.touch("deployments", ACTORS, replicas=first)
        roles = Roles(tmp_path, updates_per_step)
        options = ["--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig")), "--deployment", ACTORS, "--max-actors", "3"]
        options += [f"{option}={seconds}" for option, seconds in WINDOWS.items()]
        try:
            roles.start("services.coordinator", "coordinator")
            roles.start("services.replay", "replay-0", "--shard", "0")
            roles.start("learner", "learner")
            roles.start("services.controller", "controller", *options)
            assert set(scaled(api, roles, last)) == reasons
        finally:
            roles.stop()

"""Pods as podman containers on their own network, with only the work of a kubelet and DNS.

One container per pod, with the command, environment, files, volumes, users and limits of its manifest. Not carried out:
NetworkPolicies (podman has none), scheduling, and automatic restarts of killed pods; `kill` and `start` do that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from sbrl.rpc.health import is_serving
from sbrl.runtime.lifecycle import START_AGAIN
from tests.e2e.pods import Objects, Pod, pod_of

# Limits that every machine can set. podman's defaults are too high on machines where root may not raise limits.
NOWHERE = "192.0.2.1"  # an address reserved for documentation
ULIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
COMMAND_SECONDS = 120.0
INIT_SECONDS = 600.0
POLL_SECONDS = 1.0


class Failed(Exception):
    """A step did not show what it must."""


class Cluster:
    """One machine that runs a release's pods."""

    def __init__(self, objects: Objects, name: str, directory: Path) -> None:
        """Args: name: of the network, and the first part of all containers' names; directory: for the pods' files."""
        self._objects, self._name, self._directory = objects, name, directory
        self.pods: dict[str, Pod] = {}
        self.before_log: dict[str, str] = {}  # by pod: the output of its init container
        podman("network", "create", "--label", f"sbrl-e2e={name}", name)

    def start(self, workload: str, ordinal: int = 0) -> Pod:
        """Starts a pod of a StatefulSet or a Deployment, or the pod with this name."""
        pod = pod_of(self._objects, workload, ordinal)
        self.launch(pod)
        return pod

    def launch(self, pod: Pod) -> None:
        """Starts a pod. Replaces an ended pod with the same name and keeps its claims.

        Raises:
            Failed: its init container failed.
        """
        self._remove(pod.name)
        if pod.before is not None:
            self.launch(pod.before)
            code = self.wait_end(pod.before, INIT_SECONDS)
            self.before_log[pod.name] = self.log(pod.before)
            self._remove(pod.before.name)
            if code:
                raise Failed(f"{pod.before.name} has ended with exit code {code}: {self.before_log[pod.name]}")
        podman(*self._arguments(pod))
        self.pods[pod.name] = pod

    def kill(self, pod: Pod) -> None:
        """Kills a pod with SIGKILL, without warning. Everything but its claims is gone."""
        podman("kill", "--signal", "KILL", self._container(pod.name))
        self._remove(pod.name)

    def stop(self, pod: Pod) -> int:
        """Like deleting a pod: preStop, SIGTERM, and SIGKILL at the end of the grace period. Returns the exit code."""
        container, begin = self._container(pod.name), time.monotonic()
        if pod.pre_stop:
            podman("exec", container, *pod.pre_stop, seconds=pod.grace_seconds)
        left = max(1, int(pod.grace_seconds - (time.monotonic() - begin)))
        podman("stop", "--time", str(left), container, seconds=left + COMMAND_SECONDS)
        code = int(podman("inspect", "--format", "{{.State.ExitCode}}", container))
        self._remove(pod.name)
        return code

    def address(self, pod: Pod) -> str:
        """Its IP address."""
        form = f'{{{{(index .NetworkSettings.Networks "{self._name}").IPAddress}}}}'
        return podman("inspect", "--format", form, self._container(pod.name))

    def is_ready(self, pod: Pod) -> bool:
        """Whether its readiness probe succeeds."""
        return is_serving(f"{self.address(pod)}:{pod.health_port}", timeout=5.0)

    def wait_ready(self, pod: Pod, seconds: float) -> float:
        """Waits until a pod's readiness probe succeeds; returns the seconds that it took."""
        begin = time.monotonic()
        while not self.is_ready(pod):
            self.tend()
            if time.monotonic() - begin > seconds:
                raise Failed(f"{pod.name} is not ready after {seconds:g} s: {self.log(pod)[-2000:]}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - begin

    def tend(self) -> None:
        """Does a kubelet's check: restarts containers that ended with a request to start again.

        Raises:
            Failed: a pod of the release ended in another way without being told to.
        """
        for pod in list(self.pods.values()):
            container = self._container(pod.name)
            state, code = podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container).split()
            if not pod.health_port or state != "exited":
                continue
            if int(code) != START_AGAIN:
                raise Failed(f"{pod.name} has ended with exit code {code}: {self.log(pod)[-2000:]}")
            podman("start", container)

    def wait_end(self, pod: Pod, seconds: float) -> int:
        """Waits until a pod ends by itself; returns its exit code."""
        return int(podman("wait", self._container(pod.name), seconds=seconds))

    def log(self, pod: Pod) -> str:
        done = subprocess.run(
            ["podman", "logs", self._container(pod.name)], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        )
        return done.stdout + done.stderr

    def execute(self, pod: Pod, *command: str) -> bytes:
        """The output of a command in a pod's container, as with `kubectl exec`."""
        words = ["podman", "exec", self._container(pod.name), *command]
        done = subprocess.run(words, capture_output=True, timeout=COMMAND_SECONDS, check=False)
        if done.returncode:
            raise Failed(f"{command} in {pod.name}: {done.stderr.decode()}")
        return done.stdout

    def memory_bytes(self, pod: Pod) -> int:
        """Memory of its processes, without cached files."""
        (found,) = json.loads(podman("stats", "--no-stream", "--format", "json", self._container(pod.name)))
        return int(parse_bytes(found["mem_usage"].split(" / ")[0]))

    def share_claim(self, other: Cluster, claim: str) -> None:
        """Gives this cluster a claim of another one, like a ReadWriteMany volume that both mount."""
        (self._directory / "claims").mkdir(parents=True, exist_ok=True)
        (self._directory / "claims" / claim).symlink_to(other._directory / "claims" / claim)

    def claim(self, pod: Pod, path: str) -> Path:
        """The folder of a volume claim on this machine."""
        (volume,) = (volume for volume in pod.volumes if volume.mount_path == path)
        return self._directory / "claims" / volume.claim

    def close(self) -> None:
        """Kills and removes everything, including the network."""
        for name in list(self.pods):
            self._remove(name)
        podman("network", "rm", "--force", self._name)

    def _container(self, pod: str) -> str:
        return f"{self._name}-{pod}"

    def _remove(self, pod: str) -> None:
        podman("rm", "--force", "--time", "0", "--ignore", self._container(pod))
        self.pods.pop(pod, None)
        shutil.rmtree(self._directory / "pods" / pod, ignore_errors=True)

    def _arguments(self, pod: Pod) -> list[str]:
        """The arguments with which podman starts a pod."""
        words = ["run", "--detach", "--name", self._container(pod.name), "--hostname", pod.name, "--pull=never", *ULIMITS]
        words += ["--network", self._name, *(f"--network-alias={name}" for name in pod.host_names)]
        # No policy of the chart lets a pod reach itself through its own Service. So here its own names lead nowhere.
        words += [f"--add-host={name}:{NOWHERE}" for name in pod.host_names if not name.startswith(f"{pod.name}.")]
        words += [f"--user={pod.user}:{pod.group}", f"--group-add={pod.fs_group}", "--cap-drop=all"]
        words += ["--security-opt=no-new-privileges", "--read-only", "--read-only-tmpfs=false"]
        words += [f"--cpu-shares={pod.cpu_shares}", *([f"--memory={pod.memory_bytes}"] if pod.memory_bytes else [])]
        words += [f"--env={name}={value}" for name, value in pod.environment.items()]
        for number, volume in enumerate(pod.volumes):
            source = self._directory / "pods" / pod.name / str(number)
            if volume.claim:
                source = self._directory / "claims" / volume.claim
            if not source.is_dir():
                # Like a kubelet with fsGroup: owned by root, writable by the group.
                make_folder(source, 0o2775, pod.fs_group)
                if volume.claim:
                    make_folder(source / "lost+found", 0o700, 0)  # as on a real disk
            for file in volume.files:
                path = source / file.path
                path.write_bytes(file.content)
                path.chmod(file.mode)
                os.chown(path, 0, pod.fs_group)
            words.append(f"--volume={source}:{volume.mount_path}:{'ro' if volume.read_only else 'rw'}")
        if pod.command:
            words.append(f"--entrypoint={json.dumps(pod.command)}")
        return [*words, pod.image, *pod.args]


def make_folder(path: Path, mode: int, group: int) -> None:
    path.mkdir(parents=True)
    os.chown(path, 0, group)
    path.chmod(mode)


def parse_bytes(text: str) -> float:
    """Parses podman's sizes, such as 123.4MB."""
    units = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "B": 1.0}
    unit = next(unit for unit in units if text.endswith(unit))
    return float(text.removesuffix(unit)) * units[unit]


def podman(*arguments: str, seconds: float = COMMAND_SECONDS) -> str:
    """Runs podman; returns its output.

    Raises:
        Failed: podman failed; with its message.
    """
    command: Sequence[str] = ("podman", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"podman {arguments[0]} has not ended after {seconds:g} s: {' '.join(command)}") from None
    if done.returncode:
        raise Failed(f"podman {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip()

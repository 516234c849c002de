"""Bad input is one clear message with the right exit code; nothing is overwritten."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sbrl.cli.__main__ import run
from sbrl.errors import UsageError
from tests.smoke.conftest import FAST, sbrl

pytestmark = pytest.mark.timeout(120)

USAGE, FAILURE = 2, 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["env.id=ALE/Pomg-v5"], ["ALE/Pomg-v5", "ALE/Pong-v5"]),
        (["env.id=Pong"], ["ALE/Pong-v5"]),
        (["env.id=Pendulum-v1"], ["discrete"]),
        (["env.id=.relative:Own-v0"], ["'.relative:Own-v0'", "package.module:Name-v0"]),
        (["env.id=CartPole-v1", "env.kwargs.colour=red"], ["cannot be made", "'colour'", "env.kwargs"]),
        (["network.bind_host=locahlost.invalid"], ["network.bind_host='locahlost.invalid'", "127.0.0.1"]),
        (
            ["env.id=CartPole-v1", "replay.sampling=cached", "replay.capacity=2000000000"],
            ["a replay memory of 2,000,000,000 transitions takes", "bytes when full", "may be used", "replay.sampling=remote"],
        ),
        (["learner.bach_size=4"], ["unknown key 'learner.bach_size'", "learner.batch_size"]),
        (["learner.batch_size=0"], ["learner.batch_size", "at least 1"]),
        (["run.env_steps"], ["section.key=value"]),
        (["--preset", "smal-batch"], ["unknown preset", "small-batch"]),
        (["--config", "missing.yaml"], ["missing.yaml", "No such file"]),
        (["--resume"], ["no run to resume"]),
        (["--serial", "--resume"], ["--serial cannot resume"]),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_usage_errors(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    """In this process, because a separate one takes seconds to load libraries. The exit of a process is tested below."""
    with pytest.raises(UsageError) as caught:
        run(["train", "--run-dir", str(tmp_path / "run"), *arguments])
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "run").exists()


def test_what_the_serial_program_cannot_do(tmp_path: Path) -> None:
    done = sbrl("train", "--run-dir", str(tmp_path / "run"), "--serial", "run.wandb_mode=offline")
    check(done.returncode, done.stderr, USAGE, ["run.wandb_mode=offline", "--serial", "leave out one"])
    assert not (tmp_path / "run").exists()


def test_run_directory_that_is_a_file_or_not_empty(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("precious", encoding="utf-8")
    done = sbrl("train", "--run-dir", str(occupied), *FAST)
    check(done.returncode, done.stderr, USAGE, ["is not empty", "--resume"])
    assert (occupied / "thesis.txt").read_text(encoding="utf-8") == "precious"
    done = sbrl("train", "--run-dir", str(occupied / "thesis.txt" / "run"), *FAST)
    check(done.returncode, done.stderr, FAILURE, ["thesis.txt"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = sbrl("train", "--run-dir", str(tmp_path / "run"), *FAST)
    check(done.returncode, done.stderr, FAILURE, ["cannot write run directory", "Permission denied"])


def test_file_system_that_refuses_writes() -> None:
    done = sbrl("train", "--run-dir", "/proc/sbrl-run", *FAST)
    check(done.returncode, done.stderr, FAILURE, ["cannot write run directory /proc/sbrl-run"])


def test_taken_port(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = sbrl("train", "--run-dir", str(tmp_path / "run"), *FAST, f"network.coordinator_address=127.0.0.1:{port}")
    check(done.returncode, done.stderr, FAILURE, [f"port {port}", "in use"])
    assert not (tmp_path / "run").exists()


def test_cuda_asked_for_and_absent(tmp_path: Path) -> None:
    done = sbrl("train", "--run-dir", str(tmp_path / "run"), *FAST, "learner.device=cuda:63", timeout=100)
    check(done.returncode, done.stderr, USAGE, ["learner.device=cuda:63", "CUDA"])
    assert not (tmp_path / "run").exists()


OLD_API = """
import gymnasium, numpy

class Old(gymnasium.Env):
    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(0, 1, (4,))
    def reset(self, *, seed=None, options=None):
        return numpy.zeros(4), {}
    def step(self, action):
        return numpy.zeros(4), 0.0, False, {}

gymnasium.register("Old-v0", entry_point=Old)
"""


def test_an_environment_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old_api.py").write_text(OLD_API, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    setting, words = (
        "env.id=old_api:Old-v0",
        ["env.id=old_api:Old-v0 cannot be stepped", "it returned 4 values", "truncated, info"],
    )
    for mode in ((), ("--serial",)):
        done = sbrl("train", "--run-dir", str(tmp_path / "run"), *FAST, setting, *mode)
        check(done.returncode, done.stderr, USAGE, words)
        assert not (tmp_path / "run").exists()
    config = tmp_path / "run.yaml"
    network = ("network.coordinator_address=127.0.0.1:9", "network.replay_addresses=['127.0.0.1:10','127.0.0.1:11']")
    config.write_text(sbrl("config", "show", *FAST, setting, *network).stdout, encoding="utf-8")
    for role in ("actor", "evaluator"):
        done = sbrl(role, "--config", str(config))
        check(done.returncode, done.stderr, USAGE, words)


def test_run_directory_of_another_schema(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("schema_version: 99\n", encoding="utf-8")
    for command in (["train", "--resume", "--run-dir"], ["eval"], ["play"]):
        done = sbrl(*command, str(tmp_path))
        check(done.returncode, done.stderr, USAGE, ["schema", "99"])
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["run.yaml"]


@pytest.mark.parametrize("role", ["actor", "learner", "replay", "evaluator"])
def test_role_without_addresses(tmp_path: Path, role: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(sbrl("config", "show", *FAST).stdout, encoding="utf-8")
    done = sbrl(role, "--config", str(config))
    check(done.returncode, done.stderr, USAGE, ["network.coordinator_address", "sbrl train"])


def check(code: int, stderr: str, wanted: int, words: list[str]) -> None:
    assert code == wanted, stderr
    assert "Traceback" not in stderr
    assert stderr.startswith("sbrl: error: ")
    for word in words:
        assert word in stderr, stderr

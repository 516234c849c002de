"""One log line per event, with run, role and process: text for people, JSON if the environment asks for it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbrl.config import build, dump
from sbrl.envs.spec import EnvSpec
from sbrl.errors import UsageError
from sbrl.rpc.ports import free_ports
from sbrl.runtime.log_lines import as_json, without_repeats
from sbrl.storage.metadata import new_run_id, run_id_of, run_metadata
from sbrl.telemetry.logs import FORMAT_VARIABLE, Context, JsonFormatter, TextFormatter, configure_logging, json_line, log_format

CONTEXT = Context("replay", "replay-0", "pong-1")
KEYS = ["time", "level", "role", "name", "run_id", "message", "logger"]
JSON_ENVIRONMENT = {**os.environ, FORMAT_VARIABLE: "json"}
LIMIT = 100.0
SPEC = EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", False)


def record(message: str, *arguments: object, error: bool = False) -> logging.LogRecord:
    made = logging.LogRecord("sbrl.table", logging.WARNING, "table.py", 7, message, arguments, None)
    made.created = 1767268800.25
    if error:
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            made.exc_info = sys.exc_info()
    return made


def test_a_line_for_people() -> None:
    line = TextFormatter(CONTEXT).format(record("took %.1f s\nin all", 3))
    assert line == "2026-01-01T12:00:00Z WARNING pong-1 replay-0 took 3.0 s | in all"
    assert " replay/sbrl-replay-0 " not in line
    # A pod's name need not begin with its role.
    in_a_pod = TextFormatter(Context("actor", "sbrl-actors-x7-2b", "100%s")).format(record("hello"))
    assert in_a_pod == "2026-01-01T12:00:00Z WARNING 100%s actor/sbrl-actors-x7-2b hello"


def test_a_line_for_programs() -> None:
    line = JsonFormatter(CONTEXT).format(record("took %.1f s\nin all", 3, error=True))
    assert "\n" not in line
    event = json.loads(line)
    assert list(event) == [*KEYS, "exception"]
    assert event["time"] == "2026-01-01T12:00:00.250Z"
    assert (event["level"], event["role"], event["name"], event["run_id"]) == ("WARNING", "replay", "replay-0", "pong-1")
    assert event["message"] == "took 3.0 s\nin all"
    assert "ValueError: broken\nin two" in event["exception"]


@pytest.mark.parametrize(
    ("line", "level", "message", "logger"),
    [
        ("[reverb/cc/x.cc:71] Started replay server", "INFO", "[reverb/cc/x.cc:71] Started replay server", "output"),
        ("sbrl: error: no port", "ERROR", "no port", "sbrl"),
        ("sbrl: warning: slow", "WARNING", "slow", "sbrl"),
        ("{no json", "INFO", "{no json", "output"),
        ("[1, 2]", "INFO", "[1, 2]", "output"),
    ],
)
def test_what_nobody_logged_becomes_an_event(line: str, level: str, message: str, logger: str) -> None:
    event = json.loads(as_json(CONTEXT, line))
    assert list(event) == KEYS
    assert (event["level"], event["message"], event["logger"], event["run_id"]) == (level, message, logger, "pong-1")


def test_events_stay_as_they_are_and_empty_lines_go() -> None:
    event = json_line(CONTEXT, 0.0, "INFO", "é")
    assert as_json(Context(), event) == event
    assert as_json(CONTEXT, "  ") == ""
    nobody = json.loads(as_json(CONTEXT, json_line(Context(), 0.0, "ERROR", "no config")))
    assert (nobody["role"], nobody["name"], nobody["run_id"]) == CONTEXT


def test_an_unknown_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORMAT_VARIABLE, raising=False)
    assert log_format() == "text"
    monkeypatch.setenv(FORMAT_VARIABLE, "xml")
    with pytest.raises(UsageError, match=r"SBRL_LOG_FORMAT=xml .* text or json"):
        log_format()


@pytest.fixture
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, warnings.formatwarning
    yield
    root.handlers[:], level, warnings.formatwarning = before
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("own_logging")
def test_pythons_warnings_are_events(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    configure_logging(CONTEXT, "INFO")
    warnings.warn("an old way", DeprecationWarning, stacklevel=1)
    (line,) = capfd.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["level"] == "WARNING"
    assert event["message"].startswith("DeprecationWarning: an old way (")


def test_a_run_has_one_id(tmp_path: Path) -> None:
    first, second = new_run_id("ALE/Pong-v5"), new_run_id("ALE/Pong-v5")
    assert first != second
    assert re.fullmatch(r"pong-\d{8}-\d{6}-[0-9a-f]{8}", first)
    path = tmp_path / "run.yaml"
    path.write_text(dump(build({}), run_metadata(first, SPEC)), encoding="utf-8")
    assert run_id_of(path) == first
    path.write_text(dump(build({})), encoding="utf-8")
    assert run_id_of(path) == tmp_path.name
    path.write_text("{", encoding="utf-8")
    assert run_id_of(path) == tmp_path.name


def write_config(directory: Path) -> Path:
    coordinator, shard = free_ports("127.0.0.1", 2)
    network = {"coordinator_address": f"127.0.0.1:{coordinator}", "replay_addresses": [f"127.0.0.1:{shard}"]}
    path = directory / "run.yaml"
    config = build({"env": {"id": "CartPole-v1"}, "replay": {"num_shards": 1, "sampling": "cached"}, "network": network})
    path.write_text(dump(config, run_metadata("cartpole-7", SPEC)), encoding="utf-8")
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `sbrl ROLE` with JSON logs on a config in tmp_path."""
    config, started = write_config(tmp_path), []

    def run(role: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sbrl.cli", role, "--config", str(config), *arguments]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=JSON_ENVIRONMENT)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def events_until(process: subprocess.Popen[str], words: str) -> list[dict[str, Any]]:
    """The events up to one with these words in its message. Every line must be an event."""
    assert process.stdout is not None
    killer = threading.Timer(LIMIT, process.kill)
    killer.start()
    events: list[dict[str, Any]] = []
    try:
        for line in process.stdout:
            events.append(json.loads(line))
            if words in events[-1]["message"]:
                return events
    finally:
        killer.cancel()
    raise AssertionError(f"no {words!r} in {events}")


@pytest.mark.parametrize(
    ("role", "arguments", "words"),
    [
        ("coordinator", (), "serving on"),
        ("replay", ("--shard", "0"), "Started replay server"),  # said by Reverb's native code
    ],
)
def test_every_line_of_a_roles_process_is_an_event(
    start: Callable[..., subprocess.Popen[str]], role: str, arguments: tuple[str, ...], words: str
) -> None:
    if role == "replay":
        start("coordinator", "--name", "sbrl-coordinator-0")  # without its answer a shard does not serve
    process = start(role, "--name", f"sbrl-{role}-0", *arguments)
    events = events_until(process, words)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=LIMIT)
    events += [json.loads(line) for line in output.splitlines()]
    assert process.returncode == 0, events
    assert any(event["message"] == "received SIGTERM: draining" for event in events)
    for event in events:
        assert (event["role"], event["name"], event["run_id"]) == (role, f"sbrl-{role}-0", "cartpole-7"), event
        assert event["level"] in ("INFO", "WARNING"), event  # nobody answers at the coordinator's address


def test_a_setting_that_is_refused_is_one_event(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("metadata: {run_id: bad}\nlearner: {batch_size: 0}\n", encoding="utf-8")
    process = start("learner", "--name", "sbrl-learner-0")
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    (event,) = [json.loads(line) for line in output.splitlines()]
    assert event["level"] == "ERROR"
    assert "learner.batch_size" in event["message"]
    assert event["role"] == "learner"


@pytest.mark.parametrize(
    ("code", "exit_code", "last"),
    [
        (
            "import os, sys; sys.stderr.write('F0101 check failed\\n'); sys.stderr.flush(); os.abort()",
            134,
            "F0101 check failed",
        ),
        ("print('no end of line', end=''); raise SystemExit(3)", 3, "no end of line"),
        (
            "from sbrl.runtime.program import run_program\ndef main(argv): raise KeyError('bug')\nrun_program(main)",
            1,
            "ended by an exception: this is a bug",
        ),
    ],
    ids=["native abort", "last line without an end", "bug"],
)
def test_the_last_words_of_a_process_and_its_exit_code_are_kept(code: str, exit_code: int, last: str) -> None:
    command = [sys.executable, "-m", "sbrl.runtime.log_lines", "learner", "learner", "run-1", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=JSON_ENVIRONMENT, check=False)
    assert done.returncode == exit_code
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[-1]["message"] == last
    assert len(events) == 1


COUNT = """
import os, pathlib, signal, sys, time
file = pathlib.Path(sys.argv[1])
starts = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(starts))
print("start", starts, flush=True)
if starts == int(sys.argv[2]):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
sys.exit(75 if starts < 3 else 4)
"""


@pytest.mark.parametrize(("told_to_end_at", "starts", "exit_code"), [(0, 3, 4), (2, 2, 75)])
def test_a_process_that_wants_to_be_started_again_is_at_once(
    tmp_path: Path, told_to_end_at: int, starts: int, exit_code: int
) -> None:
    """No container restart is needed, which Kubernetes would delay. A process that was told to end is not restarted."""
    program = [sys.executable, "-c", COUNT, str(tmp_path / "starts"), str(told_to_end_at)]
    command = [sys.executable, "-m", "sbrl.runtime.log_lines", "learner", "learner", "run-1", *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=JSON_ENVIRONMENT, check=False)
    assert done.returncode == exit_code, done.stderr
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert messages == [f"start {number}" for number in range(1, starts + 1)]


def test_what_native_code_repeats_is_said_once() -> None:
    still = [f"[table.cc:{n}] Still reading compressed trajectory data. {n} records have been read." for n in range(1, 755)]
    own = ['{"message": "restored 1"}', '{"message": "restored 1"}']  # our own events are never left out
    last = ["Aborted 1", "Aborted 2"]
    lines = [f"{line}\n" for line in ["begins", *still, *own, *last]]
    repeats = "the line before came {} more times with other numbers\n"
    expected = [
        "begins\n",
        f"{still[0]}\n",
        repeats.format(753),
        *(f"{line}\n" for line in own),
        "Aborted 1\n",
        repeats.format(1),
    ]
    assert list(without_repeats(lines)) == expected

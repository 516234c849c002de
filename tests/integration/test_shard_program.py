"""A shard's own program, `python -m services.replay`, a hang of it is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sbrl.config import build, dump
from sbrl.lifecycle import START_AGAIN
from sbrl.ports import free_ports
from sbrl.run_directory import RunDirectory

pytestmark = pytest.mark.timeout(180)
SECONDS = 60.0  # a busy machine's
# The program with a checkpoint that never returns, and less patience for it.
HANGING = """
import threading
from sbrl.lifecycle import run_program
from sbrl.replay.backend import reverb
from services.replay import __main__ as program

reverb.Client.checkpoint = lambda client: threading.Event().wait()
program.HANGS_SECONDS = 2.0
run_program(program.main)
"""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    port, coordinator_port = free_ports("127.0.0.1", 2)
    config = build(
        {
            "env": {"id": "CartPole-v1"},
            "replay": {"num_shards": 1, "sampling": "cached"},
            "network": {"coordinator_address": f"127.0.0.1:{coordinator_port}", "replay_addresses": [f"127.0.0.1:{port}"]},
        }
    )
    directory = RunDirectory(tmp_path)
    directory.config.write_text(dump(config), encoding="utf-8")
    return directory


def test_a_shard_that_hangs_in_a_checkpoint_ends_to_be_started_again(directory: RunDirectory) -> None:
    """Without a coordinator, too: a shard of a configured sampling needs none to serve."""
    command = [sys.executable, "-c", HANGING, "--config", str(directory.config), "--health-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "serving on port" in line:
                    break
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(SECONDS) == START_AGAIN, "".join(lines) + rest
        finally:
            process.kill()

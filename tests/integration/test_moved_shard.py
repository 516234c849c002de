"""A rescheduled pod has a new address under its name. Its clients find it, with a real resolver and real TCP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WITH_HOSTS = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


def run_with_hosts(hosts: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that sees `hosts` as /etc/hosts, in its own mount namespace."""
    hosts.touch()
    unshare = ["unshare", "--mount", "sh", "-c", WITH_HOSTS, "sh", str(hosts), *command]
    return subprocess.run(unshare, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare (util-linux), which gives a process an /etc/hosts of its own")
    tried = run_with_hosts(path, "true")
    if tried.returncode:
        pytest.skip(
            f"a process gets an /etc/hosts of its own only from root with the right to mount (CAP_SYS_ADMIN); this is user "
            f"{os.getuid()}: {tried.stderr.strip()}"
        )
    return path


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("role", "found"),
    [
        ("learner", ["the learner has a segment"]),
        # gRPC resolves a name at most every half minute, and a writer keeps its stream for segments in flight.
        pytest.param("actor", ["the actor's segments have arrived"], marks=pytest.mark.slow),
    ],
)
def test_a_shard_is_found_at_its_new_address(hosts: Path, tmp_path: Path, role: str, found: list[str]) -> None:
    script = [sys.executable, "-m", "tests.integration.moved_shard", str(hosts), str(tmp_path / "data"), role]
    done = run_with_hosts(hosts, *script)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "the pod is gone" in done.stdout
    for line in found:
        assert line in done.stdout

"""Scripts that cannot fetch what they need: one clear sentence with the remedy, and nothing left behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sbrl.local.prometheus import find_program

ROOT = Path(__file__).parents[2]


def executable(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "body", "sentence"),
    [
        (
            "uname",
            'case "$1" in -s) echo Darwin ;; *) echo arm64 ;; esac',
            "runs on Linux x86_64 with glibc, this is Darwin arm64",
        ),
        ("getconf", "exit 1", "runs on Linux x86_64 with glibc"),  # musl
        ("python", "exit 1", "Python 3.11 is needed"),
        ("python", 'case "$2" in *ensurepip*) exit 1 ;; esac', "apt-get install python3.11-venv"),
    ],
    ids=["platform", "musl", "python", "venv"],
)
def test_setup_says_what_is_missing(tmp_path: Path, name: str, body: str, sentence: str):
    scripts = tmp_path / "tree" / "scripts"
    scripts.mkdir(parents=True)
    script = executable(scripts / "setup.sh", (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8"))
    commands = tmp_path / "commands"
    commands.mkdir()
    executable(commands / "python", "exit 0")
    executable(commands / name, body)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHON": str(commands / "python")}

    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "tree" / ".venv").exists()


@pytest.fixture(params=["oracles", "s3", "peers"])
def extra(request: pytest.FixtureRequest) -> str:
    """The name of an environment beside .venv."""
    name: str = request.param
    return name


@pytest.fixture
def extra_tree(tmp_path: Path, extra: str) -> Path:
    """A tree in which scripts/extra_venv.sh runs. Its Python makes an empty environment, and notes its arguments."""
    for directory in ("scripts", ".venv/bin"):
        (tmp_path / directory).mkdir(parents=True)
    executable(tmp_path / "scripts" / "extra_venv.sh", (ROOT / "scripts" / "extra_venv.sh").read_text(encoding="utf-8"))
    (tmp_path / f"constraints-{extra}.txt").write_text("rlax==0.1.6\n", encoding="utf-8")
    python = f'echo "$@" >> calls.txt; case "$2" in venv) mkdir .venv-{extra} ;; pip) exit $(cat pip-status.txt) ;; esac'
    executable(tmp_path / ".venv" / "bin" / "python", python)
    return tmp_path


def make_extra(tree: Path, name: str, pip_status: int) -> subprocess.CompletedProcess[str]:
    (tree / "pip-status.txt").write_text(str(pip_status), encoding="utf-8")
    command = ["bash", "scripts/extra_venv.sh", name]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=20, check=False)


def test_an_environment_is_installed_once_and_again_when_its_versions_change(extra: str, extra_tree: Path):
    for text, times in (("rlax==0.1.6\n", 1), ("rlax==0.1.6\n", 1), ("rlax==0.1.7\n", 2)):
        (extra_tree / f"constraints-{extra}.txt").write_text(text, encoding="utf-8")
        assert make_extra(extra_tree, extra, pip_status=0).returncode == 0
        assert (extra_tree / "calls.txt").read_text(encoding="utf-8").count("-m pip install") == times
        assert (extra_tree / f".venv-{extra}" / ".complete").read_text(encoding="utf-8") == text


def test_it_says_what_to_do_when_pip_fails(extra: str, extra_tree: Path):
    make_extra(extra_tree, extra, pip_status=0)
    (extra_tree / f"constraints-{extra}.txt").write_text("rlax==9\n", encoding="utf-8")
    done = make_extra(extra_tree, extra, pip_status=1)
    assert done.returncode == 1
    assert f"put right what pip says and run 'make {'bench-peers' if extra == 'peers' else extra}' again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (extra_tree / f".venv-{extra}").exists()


def test_an_unknown_environment_is_refused(extra_tree: Path):
    done = make_extra(extra_tree, "peer", pip_status=0)
    assert (done.returncode, done.stderr) == (2, "usage: scripts/extra_venv.sh oracles|s3|peers\n")
    assert not (extra_tree / "calls.txt").exists()


@pytest.fixture
def prometheus_tree(tmp_path: Path) -> Path:
    """A tree in which scripts/prometheus.sh runs, with the `bin` of a bare machine, except apt and Prometheus."""
    for directory in ("scripts", ".venv", "bin"):
        (tmp_path / directory).mkdir()
    executable(tmp_path / "scripts" / "prometheus.sh", (ROOT / "scripts" / "prometheus.sh").read_text(encoding="utf-8"))
    for name in ("sh", "bash", "dirname", "mkdir", "flock", "mktemp", "rm", "mv", "grep", "tail", "touch", "chmod"):
        found = shutil.which(name)
        assert found
        (tmp_path / "bin" / name).symlink_to(found)
    return tmp_path


def run_prometheus(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [str(tree / "bin" / "bash"), "scripts/prometheus.sh"]
    environment = {"PATH": str(tree / "bin")}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=20, check=False)


APT = 'echo "$@" >> "$HOME/calls.txt"; case "$*" in *download*) touch prometheus_1_amd64.deb ;; *update*) exit 100 ;; esac'
DPKG = 'mkdir -p "$3/usr/bin"; for name in prometheus promtool; do touch "$3/usr/bin/$name"; chmod +x "$3/usr/bin/$name"; done'


def test_prometheus_is_unpacked_beside_the_other_tools_once(prometheus_tree: Path, monkeypatch: pytest.MonkeyPatch):
    calls = prometheus_tree / "calls.txt"
    executable(prometheus_tree / "bin" / "apt-get", APT.replace("$HOME", str(prometheus_tree)))
    executable(prometheus_tree / "bin" / "dpkg-deb", DPKG)
    for _ in range(2):
        done = run_prometheus(prometheus_tree)
        assert done.returncode == 0, done.stderr
        # An unreachable source is not a failure if the package arrives. The second time, nothing is fetched.
        assert len(calls.read_text(encoding="utf-8").splitlines()) == 2
    assert {path.name for path in (prometheus_tree / ".venv/tools/bin").iterdir()} == {"prometheus", "promtool"}
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sbrl.local.prometheus.TOOLS", prometheus_tree / ".venv/tools/bin")
    assert find_program("promtool") == str(prometheus_tree / ".venv/tools/bin/promtool")


def test_an_installed_prometheus_is_not_fetched_again(prometheus_tree: Path):
    for name in ("prometheus", "promtool"):
        executable(prometheus_tree / "bin" / name, "exit 0")
    assert run_prometheus(prometheus_tree).returncode == 0
    assert not (prometheus_tree / ".venv/tools").exists()


@pytest.mark.parametrize(
    ("apt", "sentence"),
    [
        (None, "no apt here"),
        ("echo 'E: Unable to locate package' >&2; exit 100", "(E: Unable to locate package)"),
    ],
    ids=["no apt", "no package"],
)
def test_prometheus_says_what_to_do_where_it_cannot_be_fetched(prometheus_tree: Path, apt: str | None, sentence: str):
    if apt is not None:
        executable(prometheus_tree / "bin" / "apt-get", apt)
        executable(prometheus_tree / "bin" / "dpkg-deb", "exit 1")
    done = run_prometheus(prometheus_tree)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "apt-get install prometheus" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((prometheus_tree / ".venv/tools").glob("bin/*"))

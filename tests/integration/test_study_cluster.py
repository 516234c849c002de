"""A study on Kubernetes, against a stand-in for its API: submitted, made by a pod, collected."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sbrl.errors import RunError, UsageError
from sbrl.runtime.stop_signals import StopRequest
from studies.__main__ import main
from studies.arms import PlannedRun
from studies.cluster.manifests import QUEUE_LABEL, STUDY_FILE, SUBMISSION
from studies.cluster.pod import MARK, make_run, unpacked
from studies.making import Maker, failed_record
from studies.pool import Ended, Task
from studies.records import load_records, write_record
from tests.integration.kubernetes_stand_in import NAMESPACE, ApiStandIn

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / ".venv/tools/schemas"
TREE: dict[str, Any] = {
    "name": "tiny",
    "question": "Does it run on a cluster?",
    "preset": "classic-dqn",
    "settings": {"replay.min_size": 100},
    "environments": ["CartPole-v1"],
    "seeds": {"test": 2, "tune": 1},
    "horizons": [200, 300],
    "arms": [{"name": "batch 32"}, {"name": "batch 8", "settings": {"learner.batch_size": 8}}],
    "tuning": {"factors": [0.5, 1]},
}


@pytest.fixture
def api() -> Iterator[ApiStandIn]:
    server = ApiStandIn()
    yield server
    server.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TREE))
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that only pretend to be made; batch 8 fails on seed 1."""

    def task(self: Maker, run: PlannedRun) -> Task:
        return Task(run.name, ("true",), self._places.log(run))

    def record(self: Maker, run: PlannedRun, end: Ended, resumed: bool) -> str:
        if run.config.learner.batch_size == 8 and run.seed == 1:
            return "the loss is not finite"
        made = dataclasses.replace(failed_record(self._study, run, ""), status="complete", scores={200: 1.0, 300: 2.0})
        write_record(self._places.results, made)
        return ""

    monkeypatch.setattr(Maker, "task", task)
    monkeypatch.setattr(Maker, "record", record)


def command(api: ApiStandIn, place: Path, action: str, *options: str) -> int:
    kubeconfig = api.kubeconfig(place / "kubeconfig")
    return main([action, "tiny.yaml", "--kubeconfig", str(kubeconfig), *options])


def make_pods(api: ApiStandIn, place: Path) -> None:
    """Does what Kubernetes does with the newest job: a pod for each index makes its run, and its log is kept."""
    job = api.all("jobs")[-1]
    name, mounted = job["metadata"]["name"], place / job["metadata"]["name"]
    mounted.mkdir()
    for file, text in api.get("configmaps", name)["data"].items():
        (mounted / file).write_text(text)
    for index in range(job["spec"]["completions"]):
        log: list[str] = []
        assert make_run(mounted, index, place / "claim", StopRequest(), log.append)
        labels = job["spec"]["template"]["metadata"]["labels"]
        api.put("pods", f"{name}-{index}", labels=labels, status={"phase": "Succeeded"}, log="\n".join(log) + "\n")
    job["status"] = {"succeeded": job["spec"]["completions"], "conditions": [{"type": "Complete", "status": "True"}]}
    api.put("jobs", name, labels=job["metadata"]["labels"], spec=job["spec"], status=job["status"])


def test_a_study_is_submitted_collected_and_submitted_again(api: ApiStandIn, place: Path, quick: None, capsys: Any):
    submit = ("--image", "sbrl:1", "--queue", "research", "--parallelism", "3")
    assert command(api, place, "submit", *submit) == 0
    assert "4 tuning runs; collect them, then submit again for the test runs" in capsys.readouterr().out
    (job,) = api.all("jobs")
    assert job["metadata"]["labels"][QUEUE_LABEL] == "research"
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 4, 3)
    with pytest.raises(RunError, match="has these 4 runs already"):
        command(api, place, "submit", *submit)
    assert command(api, place, "status", "--cluster") == 1

    make_pods(api, place)
    assert command(api, place, "status", "--cluster") == 0
    assert command(api, place, "collect") == 0
    assert "4 new records" in capsys.readouterr().out
    assert command(api, place, "submit", *submit) == 0
    assert "4 test runs" in capsys.readouterr().out
    assert json.loads((place / "runs/study-tiny/results/tuning.json").read_text()).keys() == {"batch 32", "batch 8"}

    make_pods(api, place)
    assert command(api, place, "collect") == 0
    tests = [record for record in load_records(place / "runs/study-tiny/results") if record.purpose == "test"]
    assert [(record.arm, record.seed, record.status, record.reason) for record in tests] == [
        ("batch 32", 0, "complete", ""),
        ("batch 32", 1, "complete", ""),
        ("batch 8", 0, "complete", ""),
        ("batch 8", 1, "failed", "the loss is not finite"),  # named, never filled in
    ]
    assert command(api, place, "submit", *submit) == 0
    assert "nothing to submit" in capsys.readouterr().out


def test_a_pod_that_comes_again_finds_its_record(api: ApiStandIn, place: Path, quick: None, monkeypatch: pytest.MonkeyPatch):
    command(api, place, "submit", "--image", "sbrl:1")
    make_pods(api, place)
    name = api.all("jobs")[0]["metadata"]["name"]
    monkeypatch.setattr(Maker, "task", lambda self, run: pytest.fail("the run was made again"))
    log: list[str] = []
    assert make_run(place / name, 0, place / "claim", StopRequest(), log.append)
    assert unpacked(log) is not None
    with pytest.raises(UsageError, match="index 4 is of no run that was submitted: there are 4, from 0"):
        make_run(place / name, 4, place / "claim", StopRequest(), log.append)


def test_a_log_without_a_whole_record_is_named(api: ApiStandIn, place: Path, quick: None, capsys: Any):
    command(api, place, "submit", "--image", "sbrl:1")
    make_pods(api, place)
    pod = api.all("pods")[0]
    api.put("pods", pod["metadata"]["name"], labels=pod["metadata"]["labels"], status=pod["status"], log=f"{MARK}QUJD\n")
    assert command(api, place, "collect") == 1
    said = capsys.readouterr().out
    assert "3 new records" in said
    assert f"pod {pod['metadata']['name']} is done, but its log has no record" in said


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="Kubernetes' schemas are not here: scripts/tools.sh fetches them")
@pytest.mark.parametrize(
    "options", [(), ("--queue", "q", "--claim", "studies", "--spot", "cloud.google.com/gke-spot=true", "--gpus", "1")]
)
def test_manifests_are_what_kubernetes_takes(place: Path, options: tuple[str, ...], capsys: Any):
    assert main(["submit", "tiny.yaml", "-n", NAMESPACE, "--image", "sbrl:1", "--dry-run", *options]) == 0
    text = capsys.readouterr().out
    config_map, job = yaml.safe_load_all(text)
    assert set(config_map["data"]) == {STUDY_FILE, SUBMISSION}
    assert job["spec"]["podFailurePolicy"]["rules"][0]["action"] == "Ignore"  # an eviction costs no attempt
    checker = [sys.executable, str(ROOT / "scripts/kubernetes_schemas.py")]
    checked = subprocess.run(checker, input=text, capture_output=True, text=True, timeout=100, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--spot", "yes"), "it must be KEY=VALUE"), (("--parallelism", "0"), "--parallelism 0 must be at least 1")],
)
def test_bad_options_are_refused(place: Path, options: tuple[str, ...], words: str):
    with pytest.raises(UsageError, match=words):
        main(["submit", "tiny.yaml", "-n", NAMESPACE, "--image", "sbrl:1", "--dry-run", *options])

"""How `make e2e` reads manifests and starts containers, without starting any."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from scripts import pip_mounts
from tests.chart.helm import OVERLAYS, container, render
from tests.chart.test_render import BACKUP_CLAIM
from tests.e2e import cluster
from tests.e2e.pods import expand, pod_of, quantity
from tests.e2e.release import Release

LAPTOP = ("--values", str(next(path for path in OVERLAYS if path.stem == "laptop")))


def test_a_shard_is_what_its_manifest_says():
    objects = render(*LAPTOP)
    pod = pod_of(objects, "sbrl-replay", 0)
    assert pod.name == "sbrl-replay-0"
    assert pod.command == []
    assert pod.args == ["replay", "--config=/etc/sbrl/config/run.yaml", "--name=sbrl-replay-0", "--run-dir=/data", "--shard=0"]
    assert pod.environment["SHARD"] == "0"
    assert (pod.user, pod.group, pod.fs_group) == (10001, 10001, 10001)
    assert pod.memory_bytes == 640 * 2**20
    assert pod.grace_seconds == 180
    assert pod.pre_stop == ["sleep", "5"]
    assert pod.health_port == 7003
    assert set(pod.host_names) == {"sbrl-replay.rl.svc.cluster.local", "sbrl-replay-0.sbrl-replay.rl.svc.cluster.local"}
    volumes = {volume.mount_path: volume for volume in pod.volumes}
    assert volumes["/data"].claim == "data-sbrl-replay-0"
    assert volumes["/tmp"] == (("/tmp", False, (), ""))
    (token,) = volumes["/etc/sbrl/token"].files
    assert token.content.decode() == base64.b64decode(objects["Secret", "sbrl-token"]["data"]["token"]).decode()
    assert token.mode == 0o440
    (run,) = volumes["/etc/sbrl/config"].files
    assert run.content.decode() == objects["ConfigMap", "sbrl-run"]["data"]["run.yaml"]


def test_the_coordinator_has_its_services_name_and_actors_have_none():
    objects = render(*LAPTOP)
    assert pod_of(objects, "sbrl-coordinator").host_names == ("sbrl-coordinator.rl.svc.cluster.local",)
    assert pod_of(objects, "sbrl-actors", 2).host_names == ()
    assert pod_of(objects, "sbrl-actors", 2).name == "sbrl-actors-2"


def test_what_is_not_carried_out_is_refused():
    objects = render("--set", "learner.runtimeClassName=nvidia")
    with pytest.raises(AssertionError, match="sbrl-learner-0's pod says runtimeClassName"):
        pod_of(objects, "sbrl-learner")
    with pytest.raises(AssertionError, match="there is no Kubernetes API here"):
        pod_of(render(), "sbrl-controller")


def test_a_backups_pod_reads_its_roles_claim_and_writes_to_the_shared_one():
    objects = render(*LAPTOP, values=BACKUP_CLAIM)
    pod = pod_of(objects, "sbrl-backup-replay-0", 29_400_000)
    assert pod.name == "sbrl-backup-replay-0-29400000"
    assert pod.args[:3] == ["backup", "/data", "/backups/rl/sbrl"]
    assert "--job=sbrl-backup-replay-0-29400000" in pod.args
    volumes = {volume.mount_path: volume for volume in pod.volumes}
    assert volumes["/data"] == ("/data", True, (), "data-sbrl-replay-0")
    assert volumes["/backups"] == ("/backups", False, (), "backups")
    assert pod.health_port == 0


def test_an_init_container_is_run_to_its_end_before_the_pod(tmp_path, monkeypatch):
    calls = record_podman(monkeypatch)
    monkeypatch.setattr("os.chown", lambda *_: None)
    here = cluster.Cluster(render(*LAPTOP, values=BACKUP_CLAIM), "net", tmp_path)
    ends = iter([0, 1])
    monkeypatch.setattr(here, "wait_end", lambda pod, seconds: next(ends))
    monkeypatch.setattr(here, "log", lambda pod: "restored to /data")
    pod = here.start("sbrl-replay", 0)
    first, second = (words for words in calls if words[0] == "run")
    assert first[-1] == "--if-empty"
    assert "--part=replay-0" in first
    assert f"--volume={tmp_path / 'claims/data-sbrl-replay-0'}:/data:rw" in first
    assert f"--volume={tmp_path / 'claims/backups'}:/backups:ro" in first
    assert second[-1] == "--shard=0"
    assert list(here.pods) == [pod.name]
    assert here.before_log == {"sbrl-replay-0": "restored to /data"}
    with pytest.raises(cluster.Failed, match="sbrl-replay-0-restore has ended with exit code 1: restored to"):
        here.start("sbrl-replay", 0)


def test_variables_are_replaced_as_a_kubelet_does():
    assert expand("--shard=$(A) $(B) $$(A) $A", {"A": "1"}) == "--shard=1 $(B) $(A) $A"


def test_quantities():
    assert [quantity(text) for text in ("250m", "2", "512Mi", "1.5Gi")] == [0.25, 2.0, 2.0**29, 1.5 * 2**30]


def record_podman(monkeypatch):
    """Records podman's arguments instead of running it."""
    calls: list[tuple[str, ...]] = []

    def podman(*arguments: str, seconds: float = 0.0) -> str:
        calls.append(arguments)
        return ""

    monkeypatch.setattr(cluster, "podman", podman)
    return calls


def test_containers_are_confined_as_their_pods(tmp_path, monkeypatch):
    """podman's command line and the files for it."""
    calls = record_podman(monkeypatch)
    owners: dict[Path, tuple[int, int]] = {}
    monkeypatch.setattr("os.chown", lambda path, user, group: owners.update({Path(path): (user, group)}))
    objects = render(*LAPTOP)
    here = cluster.Cluster(objects, "net", tmp_path)
    here.start("sbrl-replay", 0)
    words = calls[-1]
    assert words[:2] == ("run", "--detach")
    for word in (
        "--user=10001:10001",
        "--group-add=10001",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--read-only",
    ):
        assert word in words
    assert f"--memory={640 * 2**20}" in words
    assert "--network-alias=sbrl-replay-0.sbrl-replay.rl.svc.cluster.local" in words
    nowhere = [word.partition("=")[2] for word in words if word.startswith("--add-host=")]
    assert nowhere == ["sbrl-replay.rl.svc.cluster.local:192.0.2.1"]
    assert not any(word.startswith("--entrypoint") for word in words)
    assert list(words[words.index("sbrl:0.1.0") + 1 :]) == container_arguments(objects)
    claim = tmp_path / "claims/data-sbrl-replay-0"
    assert f"--volume={claim}:/data:rw" in words
    assert owners[claim] == (0, 10001)
    assert claim.stat().st_mode & 0o7777 == 0o2775
    (claim / "kept").touch()
    here.kill(here.pods["sbrl-replay-0"])
    assert not (tmp_path / "pods/sbrl-replay-0").exists()  # what a pod's own volumes held goes with it
    here.start("sbrl-replay", 0)
    assert (claim / "kept").exists()


def test_the_runs_config_is_read_as_roles_read_it(tmp_path, monkeypatch):
    record_podman(monkeypatch)
    objects = render(*LAPTOP)
    release = Release(objects, cluster.Cluster(objects, "net", tmp_path), tmp_path)
    assert release.config.network.coordinator_address == "sbrl-coordinator.rl.svc.cluster.local:7001"
    assert release.config.replay.num_shards == 1


def container_arguments(objects):
    args = container(objects, "replay")["args"]
    return [word.replace("$(POD_NAME)", "sbrl-replay-0").replace("$(SHARD)", "0") for word in args]


def test_the_command_of_the_check_replaces_the_entry_point(tmp_path, monkeypatch):
    calls = record_podman(monkeypatch)
    monkeypatch.setattr("os.chown", lambda *_: None)
    cluster.Cluster(render(*LAPTOP), "net", tmp_path).start("sbrl-check")
    assert '--entrypoint=["python", "/etc/sbrl/tools/check.py"]' in calls[-1]


def test_a_build_gets_what_pips_settings_name(tmp_path, monkeypatch, capsys):
    wheels, index = tmp_path / "wheels", tmp_path / "mirror/simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    listed = (
        f"global.find-links='{wheels}'\nglobal.extra-index-url='file://{index} https://mirror.example/simple'\n"
        f"global.cert='/no/such/file'\n:env:.find-links='{wheels} https://wheels.example'\nfreeze.user='1'\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listed, ""))
    monkeypatch.setattr("sys.argv", ["pip_mounts", str(tmp_path / "pip.conf")])
    pip_mounts.main()
    assert capsys.readouterr().out.splitlines() == [
        f"--volume={tmp_path}/pip.conf:/dev/pip/pip.conf:ro",
        f"--volume={wheels}:/dev/pip/0:ro",
        f"--volume={index.parent}:/dev/pip/1:ro",
    ]
    assert (tmp_path / "pip.conf").read_text().split("\n")[:4] == [
        "[global]",
        "find-links = /dev/pip/0 https://wheels.example",
        "extra-index-url = file:///dev/pip/1/simple https://mirror.example/simple",
        "cert = /no/such/file",
    ]


def test_without_settings_a_build_gets_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    monkeypatch.setattr("sys.argv", ["pip_mounts", str(tmp_path / "pip.conf")])
    pip_mounts.main()
    assert capsys.readouterr().out == ""

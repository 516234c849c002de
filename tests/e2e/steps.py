"""The steps of `make e2e`. Each function returns its observation in a few words, or raises Failed."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from sbrl.coordination.fleet_watch import total
from sbrl.monitor.progress import members
from sbrl.rpc.credentials import TOKEN_FILE
from sbrl.storage.checkpoints import list_checkpoints, updates_of
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.chart.helm import matches
from tests.chart.test_disruption import allowed
from tests.e2e.backup import starts_again_from_a_backup
from tests.e2e.cluster import Failed
from tests.e2e.pods import File, Pod, pod_of
from tests.e2e.release import START_SECONDS, WORK_SECONDS, Release, alive, checkpoints_of, end_all, segments

TOLERANCE, READINGS = 0.01, 5  # of the ratio
AWAY_SECONDS = 20.0  # a shard is away for this long, while the other one is watched
# Longest time without a new segment at the other shard: 2 s are promised, and a shard reports every 0.5 s.
SILENT_SECONDS, REPORT_SECONDS = 2.0, 0.5


def installs(release: Release) -> str:
    release.start_all()
    for pod in list(release.cluster.pods.values()):
        release.cluster.wait_ready(pod, START_SECONDS)
    memory = {name: release.cluster.memory_bytes(pod) / 2**20 for name, pod in release.cluster.pods.items()}
    pods = ", ".join(f"{name} {mebibytes:.0f} MiB" for name, mebibytes in memory.items())
    return f"all {len(memory)} pods are ready ({pods}: {sum(memory.values()) / 1024:.2f} GiB)"


def passes_helm_test(release: Release) -> str:
    check = release.cluster.start("sbrl-check")
    code = release.cluster.wait_end(check, START_SECONDS + WORK_SECONDS)
    last = release.cluster.log(check).strip().splitlines()[-1]
    if code:
        raise Failed(f"the pod of `helm test` ended with {code}: {last}")
    return last


def trains(release: Release) -> str:
    before = release.status()
    wanted = before.progress.updates + 1000
    now = release.wait("1,000 more updates", WORK_SECONDS, lambda status: status.progress.updates >= wanted)
    learner = release.pod("learner-0")
    loss = release.metric(learner, "sbrl_learner_loss")
    if not math.isfinite(loss) or release.metric(learner, "sbrl_learner_losses_not_finite_total"):
        raise Failed(f"the loss is {loss}")
    version = release.wait("new weights", WORK_SECONDS, lambda status: status.weights_version > before.weights_version)
    return f"{release.numbers(now)}, loss {loss:.4f}, weights version {version.weights_version}"


def holds_the_ratio(release: Release) -> str:
    """The ratio holds within a hundredth, in five consecutive readings.

    Transitions received ahead of the updates matter less the longer a run is, but a wrong ratio stays wrong until the time is
    over.
    """
    target = release.config.samples_per_insert
    held = 0

    def is_on_target(status: GetStatusResponse) -> bool:
        nonlocal held
        held = held + 1 if abs(release.ratio(status) - target) <= TOLERANCE * target else 0
        return held == READINGS

    status = release.wait(f"{READINGS} readings within 1 % of {target:g} samples per insert", WORK_SECONDS, is_on_target)
    return f"target {target:g}; {release.numbers(status)}"


def scales_actors(release: Release) -> str:
    cluster = release.cluster
    more = [cluster.start("sbrl-actors", ordinal) for ordinal in (1, 2)]

    def working(status: GetStatusResponse) -> bool:
        actors = [member for member in members(status, "actor") if member.alive]
        return len(actors) == 3 and all(member.counters["env_steps"] > 0 for member in actors)

    three = release.wait("three actors that step", START_SECONDS, working)
    steps = {member.name: int(member.counters["env_steps"]) for member in members(three, "actor") if member.alive}
    codes = [cluster.stop(pod) for pod in more]
    if codes != [0, 0]:
        raise Failed(f"actors told to stop ended with {codes}")
    release.wait("one actor alone", WORK_SECONDS, lambda status: alive(status, "actor") == 1)
    collected = total(three, "actor.env_steps")
    release.wait("more steps", WORK_SECONDS, lambda status: total(status, "actor.env_steps") > collected)
    return f"three worked ({', '.join(f'{name}: {count} steps' for name, count in steps.items())}), two ended with exit code 0"


def keeps_a_shards_data(release: Release) -> str:
    cluster, shard = release.cluster, release.pod("replay-0")
    written, held = checkpoints_of(release, shard), segments(release.status(), shard.name)
    # The first one may have begun before `held` was read.
    release.wait("two more checkpoints of the shard", WORK_SECONDS, lambda _: checkpoints_of(release, shard) >= written + 2)
    before = release.status()
    old_address = cluster.address(shard)
    cluster.kill(shard)
    shard = cluster.start("sbrl-replay", 0)
    seconds = cluster.wait_ready(shard, START_SECONDS)
    restored = int(release.logged(shard, r"with (\d+) segments restored")[1])
    if restored < held:
        raise Failed(f"{restored} segments came back of more than {held}")
    received, updates = release.run(before).received, before.progress.updates
    after = release.wait(
        "transitions and updates after the shard is back",
        WORK_SECONDS,
        lambda status: release.run(status).received > received + 500 and status.progress.updates > updates + 100,
    )
    return (
        f"killed with {segments(before, shard.name)} segments, back in {seconds:.0f} s with {restored} of them at "
        f"{cluster.address(shard)} in place of {old_address}; {release.numbers(after)}"
    )


def goes_on_without_a_shard(release: Release) -> str:
    """While one of two shards is away, the other one keeps getting segments, from the actors of both."""
    cluster, away, left = release.cluster, release.pod("replay-1"), release.pod("replay-0")
    release.wait("actors that write", WORK_SECONDS, lambda status: alive(status, "actor") > 0)
    # A step before may have moved the shard that stays: clients find it at its new address only some seconds later.
    inserted = release.metric(left, "sbrl_replay_segments_inserted_total")
    release.wait(
        "segments at the shard that stays",
        WORK_SECONDS,
        lambda _: release.metric(left, "sbrl_replay_segments_inserted_total") > inserted,
    )
    updates = release.status().progress.updates
    cluster.kill(away)
    begin = changed = time.monotonic()
    before = first = release.metric(left, "sbrl_replay_segments_inserted_total")
    longest = 0.0
    while (now := time.monotonic()) - begin < AWAY_SECONDS:
        inserted = release.metric(left, "sbrl_replay_segments_inserted_total")
        longest = max(longest, now - changed)
        if inserted > before:
            before, changed = inserted, now
        time.sleep(0.1)  # one reading for each report; there is no event to wait for
    if longest > SILENT_SECONDS + 2 * REPORT_SECONDS:
        raise Failed(f"{left.name} got no segment for {longest:.1f} s while {away.name} was away")
    made = release.status().progress.updates - updates
    if made <= 0:
        raise Failed(f"the learner made no update in {AWAY_SECONDS:g} s without {away.name}")
    seconds = cluster.wait_ready(cluster.start("sbrl-replay", 1), START_SECONDS)
    back = release.pod("replay-1")
    release.wait(
        "segments at the shard that is back",
        WORK_SECONDS,
        lambda _: release.metric(back, "sbrl_replay_segments_inserted_total") > 0,
    )
    return (
        f"{before - first:.0f} segments at the other in {AWAY_SECONDS:g} s, the longest pause {longest:.1f} s, {made} updates; "
        f"back in {seconds:.0f} s and written to again"
    )


def lets_a_node_be_drained(release: Release) -> str:
    """No budget keeps a pod on the only node, and all pods end in time. Then they are placed there again."""
    budgets = [manifest["spec"] for (kind, _), manifest in release.objects.items() if kind == "PodDisruptionBudget"]
    pods = [pod for pod in release.cluster.pods.values() if pod.health_port]
    for pod in pods:
        alike = sum(one.name.rpartition("-")[0] == pod.name.rpartition("-")[0] for one in pods)
        own = [budget for budget in budgets if matches(budget["selector"], pod.labels)]
        if len(own) > 1 or any(allowed(budget["maxUnavailable"], alike) < alike for budget in own):
            raise Failed(f"a disruption budget would keep {pod.name} from being evicted")
    before = release.status().progress.updates
    ended = end_all(release, pods)
    for pod in pods:
        release.cluster.launch(pod)
    for pod in pods:
        release.cluster.wait_ready(pod, START_SECONDS)
    after = release.wait("more updates after the drain", WORK_SECONDS, lambda status: status.progress.updates > before + 100)
    return f"no budget of {len(budgets)} in the way, {ended}, and the run went on: {release.numbers(after)}"


def resumes_the_learner(release: Release) -> str:
    cluster, learner = release.cluster, release.pod("learner-0")
    folder = cluster.claim(learner, "/data") / "checkpoints/learner"
    updates = release.status().progress.updates

    def is_saved(_: GetStatusResponse) -> bool:
        return any(updates_of(checkpoint) >= updates for checkpoint in list_checkpoints(folder))

    release.wait("a newer checkpoint of the learner", WORK_SECONDS, is_saved)
    before = release.status()
    cluster.kill(learner)
    learner = cluster.start("sbrl-learner", 0)
    seconds = cluster.wait_ready(learner, START_SECONDS)
    resumed = int(release.logged(learner, r"going on from update (\d+)")[1])
    if resumed < updates:
        raise Failed(f"the learner goes on from update {resumed}, although {updates} were saved")
    made = before.progress.updates
    after = release.wait("updates after it is back", WORK_SECONDS, lambda status: status.progress.updates > made + 100)
    if after.learner_term <= before.learner_term:
        raise Failed(f"the learner's term is {after.learner_term}, as before")
    return (
        f"killed after update {made}, back in {seconds:.0f} s from update {resumed}, term {before.learner_term} -> "
        f"{after.learner_term}; {release.numbers(after)}"
    )


def refuses_strangers(release: Release) -> str:
    """The coordinator refuses a pod with the same image on the same network, without the token and with a wrong one."""
    check = pod_of(release.objects, "sbrl-check")._replace(name="stranger", labels={}, host_names=())
    without = {name: value for name, value in check.environment.items() if name != TOKEN_FILE}
    volumes = [
        volume._replace(files=(File("token", b"guessed", 0o440),)) if volume.mount_path == "/etc/sbrl/token" else volume
        for volume in check.volumes
    ]
    said = [
        refused(release, check._replace(environment=without), "no token"),
        refused(release, check._replace(volumes=volumes), "wrong token"),
    ]
    return "; ".join(said)


def refused(release: Release, stranger: Pod, reason: str) -> str:
    """Lets a stranger call the coordinator; returns the answer."""
    release.cluster.launch(stranger)
    code = release.cluster.wait_end(stranger, START_SECONDS)
    last = release.cluster.log(stranger).strip().splitlines()[-1]
    if code == 0 or f"UNAUTHENTICATED: {reason}" not in last:
        raise Failed(f"a stranger with {reason} ended with {code}: {last}")
    return f"UNAUTHENTICATED: {reason}"


def gives_results(release: Release) -> str:
    """Gets the results into a run directory as docs/deploy.md and the notes say, then runs `sbrl eval` on it."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        (run / "run.yaml").write_text(release.objects["ConfigMap", "sbrl-run"]["data"]["run.yaml"], encoding="utf-8")
        copied = {
            "coordinator-0": ("python", "/etc/sbrl/tools/results.py"),
            "learner-0": ("sh", "-c", "cd /data && tar -c checkpoints/learner/$(ls checkpoints/learner | tail -n 1)"),
        }
        for pod, command in copied.items():
            with tarfile.open(fileobj=io.BytesIO(release.cluster.execute(release.pod(pod), *command))) as archive:
                archive.extractall(run, filter="data")
        files = {path.name for path in run.iterdir()}
        missing = {"summary.json", "episodes.csv", "evaluations.csv", "learning_curve.png", "checkpoints"} - files
        if missing:
            raise Failed(f"{', '.join(missing)} are missing: there are {', '.join(files)}")
        result = run / "evaluation.json"
        evaluated = subprocess.run(
            [sys.executable, "-m", "sbrl.cli", "eval", str(run), "--episodes", "3", "--json", str(result)],
            capture_output=True,
            text=True,
            timeout=WORK_SECONDS,
            check=False,
        )
        if evaluated.returncode:
            raise Failed(f"sbrl eval on what was copied: {evaluated.stderr}")
        evaluation = json.loads(result.read_text(encoding="utf-8"))
    return f"{', '.join(sorted(files))}; sbrl eval: return {evaluation['return_mean']:g} over {evaluation['episodes']} episodes"


def ends_and_begins_again(release: Release) -> str:
    """All pods end at once within their grace periods, like in an uninstall. An install then continues with their claims."""
    pods = [pod for pod in release.cluster.pods.values() if pod.health_port]
    ended = end_all(release, pods)
    release.start_all()
    for pod in pods:
        release.cluster.wait_ready(release.cluster.pods[pod.name], START_SECONDS)
    return f"{ended}; ready again"


# By their names for --only. The first step is always run; `backup` ends the release.
STEPS = (
    ("install", "helm install: every pod becomes ready", installs),
    ("test", "helm test passes", passes_helm_test),
    ("train", "it trains Pong", trains),
    ("ratio", "the ratio is on target", holds_the_ratio),
    ("scale", "actors are scaled 1 -> 3 -> 1", scales_actors),
    ("shard", "a killed shard keeps its data", keeps_a_shards_data),
    ("away", "with one of two shards away the other one's actors go on", goes_on_without_a_shard),
    ("learner", "a killed learner is resumed", resumes_the_learner),
    ("again", "the ratio is still on target", holds_the_ratio),
    ("strangers", "strangers are refused", refuses_strangers),
    ("results", "report and weights can be had and played, past the pod's own Service", gives_results),
    ("drain", "kubectl drain: all pods may go at once, and the run goes on", lets_a_node_be_drained),
    ("uninstall", "helm uninstall: every pod ends in time, and helm install goes on with its volumes", ends_and_begins_again),
    ("backup", "a backup starts a fresh release", starts_again_from_a_backup),
)

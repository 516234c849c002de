"""The step of `make e2e` in which a release is lost and another one continues from its backup."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sbrl.backup.catalog import find, open_store
from sbrl.coordination.fleet_watch import total
from sbrl.storage.checkpoints import list_checkpoints
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.chart.helm import NAMESPACE
from tests.e2e.cluster import Failed
from tests.e2e.release import START_SECONDS, WORK_SECONDS, Release, checkpoints_of, end_all

JOB = 29_400_000  # the suffix of a Job's name: the minute for which it is scheduled


def starts_again_from_a_backup(release: Release) -> str:
    """All volumes are copied while the release trains. It ends, and a new one with empty volumes continues from the copy."""
    cluster, learner = release.cluster, release.pod("learner-0")
    folder = cluster.claim(learner, "/data") / "checkpoints/learner"
    release.wait("a checkpoint of the learner", WORK_SECONDS, lambda _: bool(list_checkpoints(folder)))
    shards = [release.pod(name) for name in ("replay-0", "replay-1")]
    release.wait("a checkpoint of each shard", WORK_SECONDS, lambda _: all(checkpoints_of(release, shard) for shard in shards))
    # At the same time, as CronJobs with the same schedule start them.
    jobs = [cluster.start(name, JOB) for kind, name in release.objects if kind == "CronJob"]
    codes = {job.name: cluster.wait_end(job, WORK_SECONDS) for job in jobs}
    if any(codes.values()):
        raise Failed(f"backups ended with {codes}: {' '.join(cluster.log(job) for job in jobs)}")
    backups = cluster.claim(jobs[0], "/backups")
    (backup,) = find(open_store(str(backups / NAMESPACE / "sbrl")))
    state = release.status()
    end_all(release, [pod for pod in cluster.pods.values() if pod.health_port])
    with tempfile.TemporaryDirectory(prefix="sbrl-e2e-again-") as name:
        directory = Path(name)
        again = Release.rendered(
            release.values, [*release.settings, f"restore.from={NAMESPACE}/sbrl/{backup.name}"], directory, "again"
        )
        again.cluster.share_claim(cluster, "backups")
        try:
            return f"{backup.name} of {len(backup.parts)} parts; {goes_on_from(again, state)}"
        finally:
            again.close()
            again.cluster.close()
            release.take_token()


def goes_on_from(again: Release, state: GetStatusResponse) -> str:
    """Checks a new release. Args: state: of the lost release, after its backup."""
    again.take_token()
    again.start_all()
    for pod in list(again.cluster.pods.values()):
        again.cluster.wait_ready(pod, START_SECONDS)
    resumed = int(again.logged(again.pod("learner-0"), r"going on from update (\d+)")[1])
    restored = [pod for pod, log in again.cluster.before_log.items() if "restored to /data" in log]
    if not 0 < resumed <= state.progress.updates or len(restored) != 4:
        raise Failed(f"it goes on from update {resumed} of {state.progress.updates}; restored were {', '.join(restored)}")
    steps = total(state, "actor.env_steps")
    after = again.wait(
        "steps and updates beyond the backup's",
        WORK_SECONDS,
        lambda status: status.progress.updates > state.progress.updates + 100 and total(status, "actor.env_steps") > steps,
    )
    if after.learner_term <= state.learner_term:
        raise Failed(f"the learner's term is {after.learner_term}, as before the backup")
    again.cluster.kill(again.pod("learner-0"))
    learner = again.cluster.start("sbrl-learner", 0)
    again.cluster.wait_ready(learner, START_SECONDS)
    if "has data: nothing is restored" not in again.cluster.before_log[learner.name]:
        raise Failed(f"a volume with data was restored again: {again.cluster.before_log[learner.name]}")
    return f"went on from update {resumed} on {len(restored)} volumes, the learner's not restored again; {again.numbers(after)}"

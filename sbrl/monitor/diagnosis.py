"""Finds what is wrong with a run from an observation of it, in plain words: `sbrl doctor`'s findings. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from sbrl.config import SEGMENT_STEPS
from sbrl.coordination.fleet import RunState
from sbrl.monitor.observation import NOT_SERVING, SILENT, MemberReading, Observation, Settings
from sbrl.monitor.readable import duration
from sbrl.monitor.run_status import RunStatus

STARVED, BLOCKED = 0.75, 0.9  # shares of time, as in the alert rules
STALE_WEIGHTS_SECONDS = 300.0
RATIO_TOLERANCE, RATIO_SAMPLES = 0.02, 10_000  # share off the target; samples due before it is judged
MEMORY_HIGH, DISK_LOW, FILLED = 0.9, 0.1, 0.05
EVALUATIONS_BEHIND = 3
SILENT_HEARTBEAT_SECONDS = 3.0  # members send a heartbeat once a second
CHECKPOINTS_MISSED, CHECKPOINT_GRACE_SECONDS = 3, 300.0


class Finding(NamedTuple):
    """One problem, or one fact worth knowing."""

    cause: str  # one word for programs and tests
    text: str  # what blocks what, with the numbers
    remedy: str = ""  # what to change
    wrong: bool = True  # False: worth knowing, but not a problem


def diagnose(run: Observation) -> list[Finding]:
    """The run's problems, causes before their consequences. Findings that are not problems come last."""
    if run.coordinator_error is not None:
        return list(_without_coordinator(run))
    settings = run.settings
    if settings is None or run.run is None:
        return [Finding("unknown", "the coordinator does not say what the run is meant to be", "give the config with --config")]
    if run.state is RunState.FINISHED:
        return [Finding("finished", f"the run is finished, with {run.run.env_steps:,} env steps", wrong=False)]
    findings = [
        *_members(run, run.run, settings),
        *_training(run, run.run, settings),
        *_flow(run, run.run, settings),
        *_ratio(run.run, settings),
        *_shards(run),
        *_weights(run),
        *_safety(run),
        *_evaluator(run, run.run, settings),
        *_losses(run, run.run),
    ]
    return sorted(findings, key=lambda finding: not finding.wrong)


def _without_coordinator(run: Observation) -> Iterator[Finding]:
    if not run.processes:
        where = "" if run.processes is None else ", and no process of the run is on this machine"
        yield Finding(
            "unreachable",
            f"{run.coordinator_error}{where}",
            "start or resume the run, or give the right address with --coordinator",
        )
        return
    waiting = ", ".join(sorted(process.name for process in run.processes if process.name != "coordinator"))
    meanwhile = f"; {waiting} run on, but get no new weights, and actors stop when the steps they were allowed are taken"
    process = run.process("coordinator")
    if process is None:
        text = f"the coordinator is down: it has no process, and {run.coordinator_error}"
        yield Finding(
            "coordinator", text + meanwhile, "`sbrl train` starts it again in seconds; if not, logs/coordinator.log says why"
        )
    elif process.stopped:
        text = f"the coordinator's process {process.process_id} is stopped (as by SIGSTOP)"
        yield Finding("coordinator", text + meanwhile, f"let it go on: kill -CONT {process.process_id}")
    else:
        text = f"the coordinator's process {process.process_id} is there but does not answer: {run.coordinator_error}"
        yield Finding(
            "coordinator", text + meanwhile, f"see logs/coordinator.log; kill {process.process_id} has it started again"
        )
    yield from (
        Finding(
            "stopped", f"{other.name}'s process {other.process_id} is stopped (as by SIGSTOP)", f"kill -CONT {other.process_id}"
        )
        for other in run.processes
        if other.stopped and other.name != "coordinator"
    )


def _members(run: Observation, status: RunStatus, settings: Settings) -> Iterator[Finding]:
    """Members that are missing, and members that do not answer."""
    collected = run.state is RunState.COLLECTED
    wanted = {"replay": settings.num_shards, "learner": 1}
    if status.updates or run.processes is None:  # on one machine it is started with the first update
        wanted["evaluator"] = 1
    if not collected:
        wanted["actor"] = settings.num_actors or 1
    for role, number in wanted.items():
        live = run.of_role(role)
        names = {reading.name for reading in live}
        missing = number - len(live)
        lost = [reading for reading in run.readings if reading.role == role and reading.name not in names]
        lost.sort(key=lambda reading: reading.seconds_since_heartbeat)
        for reading in lost[: max(0, missing)]:
            yield _gone(run, reading)
        if missing > len(lost):
            yield Finding(
                role,
                f"{missing - len(lost)} of {number} {_plural(role, number)} have never reported to the coordinator"
                f"{_consequence(role)}",
                "if the run has just begun, wait a minute; else their logs say why they cannot start",
            )
    for reading in run.readings:
        if reading.alive and _is_silent(run, reading):
            yield _gone(run, reading)
        elif reading.alive and reading.health == NOT_SERVING and not collected:
            yield Finding(reading.role, f"{reading.name} is starting or stopping: it does not do its work yet", wrong=False)


def _gone(run: Observation, reading: MemberReading) -> Finding:
    process = run.process(reading.name)
    silence = f"it last reported {duration(reading.seconds_since_heartbeat)} ago"
    consequence = _consequence(reading.role)
    if process is not None and process.stopped:
        text = f"{reading.name}'s process {process.process_id} is stopped (as by SIGSTOP): {silence}"
        return Finding(reading.role, text + consequence, f"let it go on: kill -CONT {process.process_id}")
    if process is not None:
        text = f"{reading.name}'s process {process.process_id} is there but does not answer: {silence}"
        remedy = f"see logs/{reading.name}.log; if it hangs, kill {process.process_id}: it is started again"
        return Finding(reading.role, text + consequence, remedy)
    if run.processes is not None:
        text = f"{reading.name} is down: it has no process, and {silence}"
        return Finding(reading.role, text + consequence, f"it is started again in seconds; if not, see logs/{reading.name}.log")
    state = "does not answer" if reading.alive else "is down"
    remedy = "its log (kubectl logs, --previous where it was restarted) and kubectl describe pod say why"
    return Finding(reading.role, f"{reading.name} {state}: {silence}{consequence}", remedy)


def _consequence(role: str) -> str:
    return {
        "replay": "; what it has is not received, and its actors write to other shards meanwhile",
        "learner": "; no update is made, so actors come to wait, and weights grow old",
        "actor": "; what it would collect is missing",
        "evaluator": "; training is not concerned, but there are no evaluations",
    }.get(role, "")


def _training(run: Observation, status: RunStatus, settings: Settings) -> Iterator[Finding]:
    """A warm replay and a learner that answers but makes no update."""
    learners = run.of_role("learner")
    if not _warm(status, settings) or not learners or _is_silent(run, learners[0]):
        return
    if status.learner_state == "filling":
        text = f"the learner fills its memory from the shards' logs: {status.memory_transitions:,} transitions are there"
        yield Finding("filling", f"{text}; it trains as soon as a tenth of each log is", wrong=False)
        return
    if run.updates_per_second > 0 or run.state is RunState.COLLECTED:
        return
    learner = learners[0]
    waits = learner.rates.get("blocked_seconds.replay", 0.0)
    ready = int(learner.gauges.get("shards_ready", 0))
    seconds = f"in {run.seconds:.0f} s"
    if ready < settings.num_shards:
        text = f"the learner made no update {seconds}: only {ready} of {settings.num_shards} shards answer it"
        yield Finding("learner", text, "see what is said of the shards; in a cluster also the network policy between them")
    elif waits > STARVED:
        steps = run.rates.get("actor.env_steps", 0.0)
        text = f"the learner made no update {seconds}: it waits for transitions, and actors took only {steps:.1f} steps/s"
        yield Finding("starved", text, _more_actors(run))
    else:
        text = f"the learner made no update {seconds}, though it waits for nobody ({waits:.0%} of its time): it hangs"
        yield Finding("learner", text, "keep what `py-spy dump` says of it, then kill it: it goes on from its last checkpoint")


def _flow(run: Observation, status: RunStatus, settings: Settings) -> Iterator[Finding]:
    """Who waits for whom."""
    steps = run.rates.get("actor.env_steps", 0.0)
    actors = run.of_role("actor")
    if not _warm(status, settings):
        left = settings.min_replay_size - status.received
        eta = duration(left / steps) if steps > 0 else "unknown"
        text = f"the run is warming up: {status.received:,} of {settings.min_replay_size:,} transitions, {eta} to go"
        yield Finding("warming", f"{text}; then training begins", wrong=False)
        if steps == 0 and actors and run.state is RunState.RUNNING:
            text = f"{len(actors)} {_plural('actor', len(actors))} took no step in {run.seconds:.0f} s"
            yield Finding(
                "actor", text, "see their logs: they wait for a shard or for the coordinator, or the environment hangs"
            )
        return
    learner_waits = run.rates.get("learner.blocked_seconds.replay", 0.0)
    updates = run.updates_per_second
    actors_wait = run.rates.get("actor.blocked_seconds.replay", 0.0) / max(1, len(actors))
    for_answers = run.rates.get("actor.blocked_seconds.coordinator", 0.0) / max(1, len(actors))
    if run.state is RunState.RUNNING and for_answers > STARVED:
        text = (
            f"the actors wait for the coordinator {min(1.0, for_answers):.0%} of their time: it does not allow them more steps"
        )
        yield Finding(
            "coordinator", text, "see its log; near the end of a run the last steps are shared out, which takes a moment"
        )
    if run.state is RunState.RUNNING and updates > 0 and learner_waits > STARVED:
        text = (
            f"the learner waits for the actors {min(1.0, learner_waits):.0%} of its time: {len(actors)} "
            f"{'actor takes' if len(actors) == 1 else 'actors take'} {steps:.1f} steps/s, with "
            f"{settings.updates_per_step:g} updates a step that allows {steps * settings.updates_per_step:.1f} updates/s, "
            f"and it could make about {updates / max(0.01, 1 - learner_waits):.0f}"
        )
        yield Finding("starved", text, _more_actors(run))
    elif updates > 0 and actors and actors_wait > BLOCKED:
        text = (
            f"the actors wait for the learner {min(1.0, actors_wait):.0%} of their time: it makes {updates:.1f} updates/s, "
            f"which admit {updates / settings.updates_per_step:.1f} steps/s"
        )
        remedy = "nothing is lost; fewer actors would do, or speed up the learner (learner.device, learner.num_threads)"
        yield Finding("actors-blocked", text, remedy, wrong=False)


def _more_actors(run: Observation) -> str:
    """How to collect faster."""
    actors = run.of_role("actor")
    if not run.rates.get("actor.env_steps"):
        return "see the actors' logs: they wait for a shard or for the coordinator, or the environment hangs"
    waiting = run.rates.get("actor.blocked_seconds.replay", 0.0) / max(1, len(actors))
    if waiting > STARVED:
        return f"the actors wait, too ({waiting:.0%} of their time), for shards or the coordinator: see what is said of those"
    share = min(0.99, run.rates.get("learner.blocked_seconds.replay", 0.0))
    factor = min(10.0, 1 / (1 - share))
    return (
        f"collect up to {factor:.0f} times as fast: actors.num_actors above {len(actors)} where cores are free, or more CPU "
        f"for each; or give the learner less, for it has more than it needs"
    )


def _ratio(status: RunStatus, settings: Settings) -> Iterator[Finding]:
    """The learner holds the ratio by itself. If it is off, the learner is catching up after a restart, or has a fault."""
    if status.samples_due < RATIO_SAMPLES or status.learner_state == "filling":
        return
    if not status.keeps_ratio(settings.samples_per_insert, settings.ahead, RATIO_TOLERANCE):
        text = (
            f"the ratio is off: {status.samples_trained:,} samples were trained since the run began, {abs(status.drift):.1%} "
            f"{'more' if status.drift > 0 else 'fewer'} than the {status.samples_due:,.0f} that what was received is worth"
        )
        remedy = "after a restart the learner catches up by itself; else see docs/runbook.md, SbrlRatioDrift"
        yield Finding("ratio", text, remedy)


def _shards(run: Observation) -> Iterator[Finding]:
    for shard in run.of_role("replay"):
        if _is_silent(run, shard):
            continue
        gauges = shard.gauges
        limit, size = gauges.get("memory_limit_bytes", 0.0), gauges.get("transitions", 0.0)
        full = gauges.get("queue_segments", 0.0) >= gauges.get("queue_capacity", math.inf)
        if full and run.updates_per_second > 0 and shard.rates.get("segments_served", 1.0) == 0:
            text = f"{shard.name} waits for the learner, which trains and takes nothing from this shard's full queue"
            yield Finding("queue", text, "restart the learner: its stream from this shard hangs")
        used, each = gauges.get("memory_used_bytes", 0.0), gauges.get("bytes_per_transition", 0.0)
        capacity = gauges.get("log_capacity", 0.0) * SEGMENT_STEPS
        if limit and used / limit > MEMORY_HIGH:
            text = f"{shard.name} occupies {_gb(used)} of the {_gb(limit)} it may: at the limit it is killed"
            yield Finding(
                "memory", text, "raise its memory limit, or start a run with a smaller replay.capacity or more shards"
            )
        elif limit and size > FILLED * capacity and used + each * (capacity - size) > limit:
            needs = used + each * (capacity - size)
            text = f"{shard.name} may have {_gb(limit)} and will need {_gb(needs)} when full, at {each:,.0f} bytes a transition"
            yield Finding("memory", text, "raise its memory limit before then, or start a run with a smaller replay.capacity")


def _weights(run: Observation) -> Iterator[Finding]:
    stale = [actor for actor in run.of_role("actor") if actor.gauges.get("weights_age_seconds", 0.0) > STALE_WEIGHTS_SECONDS]
    if not stale or not run.updates_per_second:
        return  # without updates there is nothing newer, and another finding reports that
    oldest = max(stale, key=lambda actor: actor.gauges["weights_age_seconds"])
    age = duration(oldest.gauges["weights_age_seconds"])
    text = f"{len(stale)} of {len(run.of_role('actor'))} actors on old weights: {oldest.name} has ones of {age} ago"
    if run.weights_age_seconds > STALE_WEIGHTS_SECONDS:
        yield Finding(
            "weights", f"{text}: the learner trains but has published nothing newer", "lower learner.publish_period; its log"
        )
    else:
        text += f", though newer ones were published {duration(run.weights_age_seconds)} ago"
        yield Finding("weights", text, "they do not reach the coordinator for weights: their logs say why")


def _safety(run: Observation) -> Iterator[Finding]:
    """Checkpoints and disks."""
    for reading in run.readings:
        age, interval = (reading.gauges.get(f"checkpoint_{name}_seconds", 0.0) for name in ("age", "interval"))
        if reading.alive and interval and age > CHECKPOINTS_MISSED * interval + CHECKPOINT_GRACE_SECONDS:
            text = f"{reading.name} last saved {duration(age)} ago, not {duration(interval)}: a crash would cost all since then"
            yield Finding("checkpoint", text, f"its log says why: {reading.name}, 'checkpoint failed'")
    full = [reading for reading in run.readings if reading.disk_free is not None and reading.disk_free < DISK_LOW]
    if full:
        worst = min(reading.disk_free or 0.0 for reading in full)
        text = f"the disk of {', '.join(reading.name for reading in full)} has {worst:.0%} left: checkpoints fail first"
        yield Finding("disk", text, "make room or enlarge the volume; replay.keep_checkpoints=1 halves what the replay needs")


def _evaluator(run: Observation, status: RunStatus, settings: Settings) -> Iterator[Finding]:
    coordinators = run.of_role("coordinator")
    if not coordinators or not run.of_role("evaluator"):
        return
    evaluated = coordinators[0].gauges.get("evaluation_env_steps", status.env_steps)
    behind = (status.env_steps - evaluated) / settings.evaluation_interval_env_steps
    if behind > EVALUATIONS_BEHIND:
        text = f"the evaluator is {behind:.0f} intervals of {settings.evaluation_interval_env_steps:,} env steps behind"
        remedy = "give it a core, raise evaluator.interval_env_steps or lower evaluator.episodes; training is not concerned"
        yield Finding("evaluator", text, remedy, wrong=False)


def _losses(run: Observation, status: RunStatus) -> Iterator[Finding]:
    times = int(run.totals.get("learner.losses_not_finite", 0))
    if times:
        text = (
            f"the loss was not finite {times} {'time' if times == 1 else 'times'} since the run began, and each ended a learner"
        )
        remedy = (
            "the last line of the learner's log names the cause: stop the run and resume it with a lower learner.learning_rate"
        )
        yield Finding("loss", text, f"{remedy}, or mend the environment's numbers")
    cut = int(run.totals.get("actor.episodes_cut", 0))
    if cut:
        text = f"{cut:,} {'episode was' if cut == 1 else 'episodes were'} dropped at a bad value that the environment returned"
        yield Finding("values", text, "the actors' logs name the value: mend the environment", wrong=False)
    if status.lost:
        text = f"{status.lost:,} transitions of {status.env_steps:,} were lost since the run began, with actors or shards"
        yield Finding("lost", text, wrong=False)


def _warm(status: RunStatus, settings: Settings) -> bool:
    return status.received >= settings.min_replay_size


def _is_silent(run: Observation, reading: MemberReading) -> bool:
    """Whether a live member does nothing. A slow one still sends heartbeats."""
    process = run.process(reading.name)
    stopped = process is not None and process.stopped
    return (stopped or reading.health == SILENT) and reading.seconds_since_heartbeat > SILENT_HEARTBEAT_SECONDS


def _plural(role: str, number: int) -> str:
    name = {"replay": "replay shard"}.get(role, role)
    return name if number == 1 else f"{name}s"


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"

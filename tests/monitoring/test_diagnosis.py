"""Each fault, seen from outside, gets a diagnosis with its true cause, its numbers and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from sbrl.coordination.fleet import RunState
from sbrl.monitor.diagnosis import RATIO_SAMPLES, Finding, diagnose
from sbrl.monitor.doctor import HEALTHY, UNKNOWN, WRONG, exit_code, report
from sbrl.monitor.observation import NOT_SERVING, SILENT, Observation
from tests.monitoring.healthy_run import GB, READINGS, SETTINGS, observed

LOST = {"alive": False, "seconds_since_heartbeat": 30.0, "gauges": {}}
HUNG = {"health": SILENT, "seconds_since_heartbeat": 8.0}
# Counters that do not advance while a learner makes no updates.
NO_UPDATES: dict[str, Any] = {
    "rates": {"learner.blocked_seconds.replay": 0.0, "actor.blocked_seconds.replay": 2.0},
    "updates_per_second": 0.0,
}
# Half of what was received after warm-up came at 1 sample each, before --resume changed it to 2.
AFTER_ANOTHER_RATIO = {"samples_due": 120_000.0, "samples_trained": 120_000, "samples_per_insert": 1.5}
COLLECTED = {"state": RunState.COLLECTED}
WARMING = {"received": 5_000, "samples_trained": 0, "samples_due": 0.0, "learner_state": "warming"}
OUTAGE = "coordinator at 127.0.0.1:5 is unavailable: Deadline Exceeded"


@pytest.mark.parametrize(
    ("run", "cause", "said", "remedy"),
    [
        pytest.param(
            observed({"replay-1": HUNG}, stopped=("replay-1",)),
            *("replay", "replay-1's process 102 is stopped (as by SIGSTOP): it last reported 8s ago", "kill -CONT 102"),
            id="a shard is stopped, its lease still holds",
        ),
        pytest.param(
            observed({"replay-1": LOST}, stopped=("replay-1",)),
            *("replay", "replay-1's process 102 is stopped (as by SIGSTOP): it last reported 30s ago", "kill -CONT 102"),
            id="a shard is stopped, its lease has ended",
        ),
        pytest.param(
            observed({"replay-1": LOST}, gone=("replay-1",)),
            *("replay", "replay-1 is down: it has no process, and it last reported 30s ago", "see logs/replay-1.log"),
            id="a shard is dead",
        ),
        pytest.param(
            observed({"replay-1": HUNG}),
            *("replay", "replay-1's process 102 is there but does not answer", "kill 102: it is started again"),
            id="a shard hangs",
        ),
        pytest.param(
            observed({"replay-1": LOST}, local=False),
            *("replay", "replay-1 is down: it last reported 30s ago; what it has is not received", "kubectl"),
            id="a shard of a cluster is dead",
        ),
        pytest.param(
            observed(without=("replay-1",), local=False),
            *("replay", "1 of 2 replay shards have never reported", "their logs"),
            id="a shard never came",
        ),
        pytest.param(
            observed(without=("evaluator",)),
            *("evaluator", "1 of 1 evaluator have never reported", "their logs"),
            id="the evaluator never came",
        ),
        pytest.param(
            observed({"learner": HUNG}, stopped=("learner",), **NO_UPDATES),
            *("learner", "learner's process 103 is stopped (as by SIGSTOP)", "kill -CONT 103"),
            id="the learner is frozen, its lease still holds",
        ),
        pytest.param(
            observed({"learner": LOST}, stopped=("learner",), **NO_UPDATES),
            *("learner", "no update is made, so actors come to wait, and weights grow old", "kill -CONT 103"),
            id="the learner is frozen, its lease has ended",
        ),
        pytest.param(
            observed({"learner": {"rates": {"blocked_seconds.replay": 0.0}}}, **NO_UPDATES),
            *("learner", "made no update in 5 s, though it waits for nobody (0% of its time): it hangs", "py-spy dump"),
            id="the learner hangs but sends heartbeats",
        ),
        pytest.param(
            observed({"learner": {"gauges": {"shards_ready": 1.0}, "rates": {"blocked_seconds.replay": 1.0}}}, **NO_UPDATES),
            *("learner", "made no update in 5 s: only 1 of 2 shards answer it", "network policy"),
            id="the learner cannot reach a shard",
        ),
        pytest.param(
            observed(coordinator_error=OUTAGE, stopped=("coordinator",)),
            *("coordinator", "the coordinator's process 100 is stopped (as by SIGSTOP)", "kill -CONT 100"),
            id="the coordinator is stopped",
        ),
        pytest.param(
            observed(coordinator_error=OUTAGE, gone=("coordinator",)),
            *("coordinator", "the coordinator is down: it has no process", "logs/coordinator.log"),
            id="the coordinator is dead",
        ),
        pytest.param(
            observed(coordinator_error=OUTAGE),
            *("coordinator", "process 100 is there but does not answer", "kill 100"),
            id="the coordinator hangs",
        ),
        pytest.param(
            observed(
                {"learner": {"rates": {"blocked_seconds.replay": 0.9}}},
                rates={"learner.blocked_seconds.replay": 0.9, "actor.env_steps": 12.0},
                updates_per_second=3.0,
            ),
            "starved",
            "waits for the actors 90% of its time: 2 actors take 12.0 steps/s, with 0.25 updates a step that allows "
            "3.0 updates/s, and it could make about 30",
            "up to 10 times as fast: actors.num_actors above 2",
            id="the actors are slow",
        ),
        pytest.param(
            observed(
                {"learner": {"rates": {"blocked_seconds.replay": 1.0}}},
                rates={"learner.blocked_seconds.replay": 1.0, "actor.env_steps": 0.0},
                updates_per_second=0.0,
            ),
            *("starved", "actors took only 0.0 steps/s", "see the actors' logs"),
            id="the actors do nothing",
        ),
        pytest.param(
            observed({"actor-1": LOST}, gone=("actor-1",)),
            *("actor", "actor-1 is down: it has no process", "see logs/actor-1.log"),
            id="an actor is dead",
        ),
        pytest.param(
            observed(status={"samples_trained": 150_000}),
            *("ratio", "150,000 samples were trained since the run began, 6.1% fewer than the 159,800", "SbrlRatioDrift"),
            id="the ratio is off",
        ),
        pytest.param(
            observed(status=AFTER_ANOTHER_RATIO | {"samples_trained": 160_000}),
            *("ratio", "33.3% more than the 120,000 that what was received is worth", "SbrlRatioDrift"),
            id="the ratio is off, by what was due at two of them",
        ),
        pytest.param(
            observed({"replay-0": {"gauges": {"queue_segments": 8.0}, "rates": {"segments_served": 0.0}}}),
            *("queue", "replay-0 waits for the learner, which trains and takes nothing from this", "restart the learner"),
            id="the learner takes nothing from a shard",
        ),
        pytest.param(
            observed(rates={"actor.blocked_seconds.coordinator": 1.8}),
            *("coordinator", "the actors wait for the coordinator 90% of their time", "see its log"),
            id="the coordinator allows no steps",
        ),
        pytest.param(
            observed({"replay-0": {"gauges": {"memory_used_bytes": 15 * GB}}}),
            *("memory", "replay-0 occupies 15.0 GiB of the 16.0 GiB it may", "raise its memory limit"),
            id="a shard is near its memory limit",
        ),
        pytest.param(
            observed({"replay-0": {"gauges": {"bytes_per_transition": 40_000.0}}}),
            *("memory", "may have 16.0 GiB and will need 18.8 GiB when full, at 40,000 bytes", "before then"),
            id="a shard will not fit",
        ),
        pytest.param(
            observed({"actor-1": {"gauges": {"weights_age_seconds": 400.0}}}),
            *("weights", "1 of 2 actors on old weights: actor-1 has ones of 6m 40s ago, though newer ones", "their logs"),
            id="an actor gets no weights",
        ),
        pytest.param(
            observed({"actor-1": {"gauges": {"weights_age_seconds": 400.0}}}, weights_age_seconds=400.0),
            *("weights", "the learner trains but has published nothing newer", "publish_period"),
            id="nothing is published",
        ),
        pytest.param(
            observed({"replay-1": {"gauges": {"checkpoint_age_seconds": 3600.0}}}),
            *("checkpoint", "replay-1 last saved 1h 00m ago, not 10m 00s", "checkpoint failed"),
            id="a shard does not save",
        ),
        pytest.param(
            observed({"learner": {"disk_free": 0.04}, "replay-0": {"disk_free": 0.5}}),
            *("disk", "the disk of learner has 4% left", "make room"),
            id="a disk is full",
        ),
        pytest.param(
            observed(totals={"learner.losses_not_finite": 2.0}),
            *("loss", "the loss was not finite 2 times", "learning_rate"),
            id="the loss is not finite",
        ),
    ],
)
def test_a_fault_is_the_first_thing_said(run: Observation, cause: str, said: str, remedy: str) -> None:
    first = diagnose(run)[0]
    assert first.wrong
    assert first.cause == cause
    assert said in first.text
    assert remedy in first.remedy
    assert exit_code([first]) == WRONG


@pytest.mark.parametrize(
    ("run", "cause", "said"),
    [
        pytest.param(
            observed(status=WARMING, **NO_UPDATES),
            *("warming", "5,000 of 20,000 transitions, 2m 30s to go"),
            id="the run warms up",
        ),
        pytest.param(
            observed(status=WARMING | {"updates": 0}, without=("evaluator",), **NO_UPDATES),
            *("warming", "5,000 of 20,000 transitions, 2m 30s to go"),
            id="the evaluator is started with the first update",
        ),
        pytest.param(
            observed(rates={"actor.blocked_seconds.replay": 1.9}),
            *("actors-blocked", "95% of their time: it makes 25.0 updates/s, which admit 100.0 steps/s"),
            id="the learner sets the pace",
        ),
        pytest.param(
            observed({"coordinator": {"gauges": {"evaluation_env_steps": 40_000.0}}}),
            *("evaluator", "6 intervals of 10,000 env steps behind"),
            id="the evaluator is behind",
        ),
        pytest.param(
            observed(status={"lost": 48}),
            *("lost", "48 transitions of 100,000 were lost"),
            id="transitions were lost",
        ),
        pytest.param(
            observed(status={"learner_state": "filling", "memory_transitions": 3_000}, **NO_UPDATES),
            *("filling", "fills its memory from the shards' logs: 3,000 transitions are there"),
            id="a learner that was restarted fills its memory",
        ),
        pytest.param(
            observed(totals={"actor.episodes_cut": 2.0}),
            *("values", "2 episodes were dropped at a bad value"),
            id="the environment returns bad values",
        ),
        pytest.param(
            observed({"actor-1": {"health": NOT_SERVING}}), *("actor", "starting or stopping"), id="an actor is starting"
        ),
        pytest.param(
            observed(status={"state": RunState.FINISHED}), *("finished", "with 100,000 env steps"), id="the run is finished"
        ),
    ],
)
def test_what_is_as_it_should_be_is_worth_a_note_and_no_alarm(run: Observation, cause: str, said: str) -> None:
    findings = diagnose(run)
    assert [finding.cause for finding in findings] == [cause]
    assert said in findings[0].text
    assert exit_code(findings) == HEALTHY
    assert "note: " in report(run, findings)


def test_a_healthy_run_has_no_findings() -> None:
    assert diagnose(observed()) == []
    assert diagnose(observed(local=False)) == []
    assert report(observed(), []).endswith("\nhealthy")


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            observed({"learner": {"health": SILENT, "seconds_since_heartbeat": 0.5}}), id="answers late, but sends heartbeats"
        ),
        pytest.param(
            observed({"replay-0": {"gauges": {"queue_segments": 8.0}, "rates": {"segments_served": 0.2}}}),
            id="a slow learner takes little from a full queue",
        ),
        pytest.param(
            observed({"replay-0": {"gauges": {"queue_segments": 7.0}, "rates": {"segments_served": 0.0}}}),
            id="a slow learner has not turned to a queue that is filling",
        ),
    ],
)
def test_a_run_that_is_short_of_cpu_is_slow_and_not_broken(run: Observation) -> None:
    assert [finding for finding in diagnose(run) if finding.wrong] == []


def test_a_ratio_that_was_changed_in_mid_run_is_as_it_should_be() -> None:
    assert diagnose(observed(status=AFTER_ANOTHER_RATIO)) == []


@pytest.mark.parametrize(("batch_size", "samples_per_insert"), [(8, 2.0), (8, 64.0), (256, 256.0)])
def test_a_learner_that_sets_the_pace_may_be_behind_by_what_it_receives_ahead(
    batch_size: int, samples_per_insert: float
) -> None:
    """Early in a run, that is more than the tolerance."""
    settings = SETTINGS._replace(batch_size=batch_size, samples_per_insert=samples_per_insert)

    def causes(behind_transitions: float) -> list[str]:
        trained = int(due - behind_transitions * samples_per_insert)
        return [found.cause for found in diagnose(observed(settings=settings, status=status | {"samples_trained": trained}))]

    due = 1000 * samples_per_insert + RATIO_SAMPLES
    status = {"samples_due": due}
    assert causes(64 + 32) == []
    assert causes(64 + 32 + 0.021 * due / samples_per_insert) == ["ratio"]
    assert causes(-64 - 32 - 0.021 * due / samples_per_insert) == ["ratio"]


def test_actors_may_be_gone_once_all_is_collected() -> None:
    collected = observed({"actor-0": LOST, "actor-1": LOST}, gone=("actor-0", "actor-1"), status=COLLECTED)
    assert diagnose(collected) == []


def test_consequences_of_a_frozen_learner_are_not_said_to_be_causes() -> None:
    frozen = observed(
        {"learner": LOST, "actor-0": {"gauges": {"weights_age_seconds": 900.0}}}, stopped=("learner",), **NO_UPDATES
    )
    assert [finding.cause for finding in diagnose(frozen) if finding.wrong] == ["learner"]


def test_without_any_answer_it_cannot_be_told() -> None:
    for run in (
        observed(coordinator_error=OUTAGE, local=False),
        observed(coordinator_error=OUTAGE, gone=tuple(READINGS)),
        observed(settings=None),
    ):
        findings = diagnose(run)
        assert exit_code(findings) == UNKNOWN
        assert findings[0].remedy


def test_a_process_that_is_stopped_now_and_then_is_slow_not_stopped() -> None:
    starving = {"learner.blocked_seconds.replay": 0.95, "actor.env_steps": 4.0}
    findings = diagnose(observed(stopped=("actor-0",), rates=starving, updates_per_second=1.0))
    assert [finding.cause for finding in findings if finding.wrong] == ["starved"]


def test_all_that_is_stopped_is_named_while_the_coordinator_is_down() -> None:
    findings = diagnose(observed(coordinator_error=OUTAGE, stopped=("coordinator", "learner")))
    assert [finding.cause for finding in findings] == ["coordinator", "stopped"]


def test_several_findings_are_numbered_and_notes_come_last() -> None:
    findings = [Finding("a", "one thing", "do this"), Finding("b", "another"), Finding("c", "good to know", wrong=False)]
    text = report(observed(), findings)
    assert text.splitlines()[1:] == ["1. one thing", "   do: do this", "2. another", "note: good to know"]
    assert text.startswith(
        "100,000 of 1,000,000 env steps, 100.0 steps/s, 25.0 updates/s, 2.000 samples per insert (2 configured)"
    )

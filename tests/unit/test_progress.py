"""Readings of a run: rates, the ratio, which role waits for which, and their display."""

from __future__ import annotations

import pytest
from rich.console import Console

from sbrl.config import load
from sbrl.monitor.progress import Progress, ProgressMeter
from sbrl.monitor.readable import duration
from sbrl.monitor.summary import summarize
from sbrl.monitor.view import line, panel
from sbrl.v1.episodes_pb2 import Episode
from sbrl.v1.fleet_pb2 import (
    LEARNER_STATE_FILLING,
    LEARNER_STATE_TRAINING,
    LEARNER_STATE_WARMING,
    GetStatusResponse,
    LearnerProgress,
    LearnerState,
    Member,
    ShardProgress,
)

CONFIG = load(overrides=["run.env_steps=10000", "replay.min_size=1000"])


def status(
    env_steps: int,
    trained: int,
    actor_blocked: float = 0.0,
    learner_blocked: float = 0.0,
    coordinator_blocked: float = 0.0,
    state: LearnerState = LEARNER_STATE_TRAINING,
) -> GetStatusResponse:
    return GetStatusResponse(
        members=[
            Member(role="actor", name="actor-0", alive=True),
            Member(role="replay", name="replay-1", index=1, alive=True, gauges={"transitions": 20}),
            Member(role="replay", name="replay-0", index=0, alive=True, gauges={"transitions": 10}),
        ],
        totals={
            "actor.env_steps": env_steps,
            "actor.blocked_seconds.replay": actor_blocked,
            "actor.blocked_seconds.coordinator": coordinator_blocked,
            "learner.blocked_seconds.replay": learner_blocked,
        },
        progress=LearnerProgress(
            updates=trained // 8,
            samples_trained=trained,
            shards=[ShardProgress(received=env_steps // 2), ShardProgress(received=env_steps - env_steps // 2)],
            state=state,
            memory_transitions=env_steps - 100,
        ),
        recent_episodes=[Episode(episode_return=value) for value in (-21.0, -19.0)],
        num_episodes=2,
        weights_version=3,
        weights_age_seconds=4.0,
    )


def reading(before: GetStatusResponse, after: GetStatusResponse, seconds: float = 10.0) -> Progress:
    meter = ProgressMeter(CONFIG)
    meter.read(before, now=100.0)
    return meter.read(after, now=100.0 + seconds)


def test_rates_ratio_and_eta() -> None:
    progress = reading(status(3000, 3600), status(5000, 8000))
    assert progress.env_steps_per_second == pytest.approx(200)
    assert progress.updates_per_second == pytest.approx(55)
    assert progress.eta_seconds == pytest.approx(25)
    assert progress.samples_per_insert == pytest.approx(2.0)
    assert progress.updates_per_step == pytest.approx(0.25)
    assert progress.shard_sizes == (10, 20)
    assert progress.return_mean == -20.0


@pytest.mark.parametrize(
    ("before", "after", "waiting"),
    [
        (status(100, 0), status(500, 0, state=LEARNER_STATE_WARMING), "warming up: 500 of 1,000 transitions"),
        (
            status(3000, 4000),
            status(3000, 4000, state=LEARNER_STATE_FILLING),
            "learner fills its memory from the shards' logs: 2,900 transitions",
        ),
        (status(3000, 4000), status(5000, 8000), "nobody waits"),
        (status(3000, 4000), status(5000, 8000, actor_blocked=8.0), "actors wait for the learner, 80% of their time"),
        (status(3000, 4000), status(5000, 8000, learner_blocked=6.0), "learner waits for actors, 60% of its time"),
        (
            status(3000, 4000),
            status(5000, 8000, learner_blocked=6.0, coordinator_blocked=9.0),
            "actors wait for the coordinator, 90% of their time",
        ),
    ],
)
def test_who_waits_for_whom(before: GetStatusResponse, after: GetStatusResponse, waiting: str) -> None:
    assert reading(before, after).waiting == waiting


def test_both_views_show_target_and_achieved() -> None:
    progress = reading(status(3000, 3600), status(5000, 8000))
    plain = line(CONFIG, progress)
    for part in (
        "5,000/10,000 steps (50%, ETA 25s)",
        "SPI 2.000/2",
        "UPS 0.2500/0.25",
        "memory 4,900",
        "shards 10+20",
        "return -20.0",
    ):
        assert part in plain
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(panel(CONFIG, "runs/[odd]/name", progress))
    drawn = capture.get()
    for part in ("runs/[odd]/name", "target 2, achieved 2.0000", "target 0.25, achieved 0.2500", "batch size", "nobody waits"):
        assert part in drawn


def test_summary_before_the_first_update_has_no_ratio() -> None:
    summary = summarize(CONFIG, status(500, 0), wall_seconds=5.0, complete=False)
    assert summary["samples_per_insert_achieved"] is None
    assert summary["frames"] == 2000
    assert summary["eval_return_mean"] is None


@pytest.mark.parametrize(("seconds", "text"), [(None, "unknown"), (0.4, "0s"), (61, "1m 01s"), (3600 * 2 + 7 * 60, "2h 07m")])
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text

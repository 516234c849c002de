"""The learner's progress and metrics: the counts that it works with, for the run or for this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from learner.replay import Replay
from learner.reporting import Reporter
from sbrl.coordination.fleet import RunState
from sbrl.monitor.run_status import RunStatus
from sbrl.v1.fleet_pb2 import (
    LEARNER_STATE_TRAINING,
    LEARNER_STATE_WAITING,
    LEARNER_STATE_WARMING,
    RUN_STATE_RUNNING,
    SAMPLING_CACHED,
    GetStatusResponse,
    LearnerProgress,
)
from tests.learners import CONFIG, SPEC, Learner, make_segment


def test_progress_is_what_was_received_and_trained(tmp_path: Path) -> None:
    learner = Learner(tmp_path, CollectorRegistry(), updates=5)
    intake = learner.replay.intake
    intake.put_fresh(1, make_segment(0))
    intake.put_fresh(1, make_segment(64))  # 32 to 63 are missing
    intake.put_fresh(0, make_segment(0, steps=5, env=1))
    intake.put_fresh(0, make_segment(0, steps=5, env=1))  # resent
    intake.take()
    intake.settle(((1, 200),))
    learner.train()
    learner.reporter.report(LEARNER_STATE_TRAINING)
    progress = learner.reporter.progress()
    received = 32 + 32 + 5
    assert (progress.updates, progress.samples_trained) == (5, 10)
    assert progress.samples_due == (received - 4) * 2
    assert [(one.received, one.duplicates, one.lost, one.recovered) for one in progress.shards] == [
        (5, 5, 0, 0),
        (64, 0, 32, 0),
    ]
    assert progress.lost_with_actors == 200 - 96 - 5
    assert (progress.memory_transitions, progress.memory_capacity) == (received, learner.replay.memory.capacity)
    assert (progress.state, progress.sampling) == (LEARNER_STATE_TRAINING, SAMPLING_CACHED)
    assert progress.max_priority == learner.replay.batches.max_priority() >= 1.0
    status = GetStatusResponse(totals={"actor.env_steps": 200}, progress=progress, state=RUN_STATE_RUNNING)
    run = RunStatus.of(status, min_size=4)
    assert (run.received, run.lost, run.in_flight, run.duplicates) == (69, 131, 0, 5)
    assert run.samples_per_insert == pytest.approx(10 / 65)
    assert run.state is RunState.RUNNING


def test_counters_are_this_processs_and_progress_the_runs(tmp_path: Path) -> None:
    """A learner that resumes from a checkpoint reports the run's numbers, and exports only its own work."""
    first = Learner(tmp_path, CollectorRegistry(), updates=3)
    first.replay.intake.put_fresh(0, make_segment(0))
    first.replay.intake.put_fresh(1, make_segment(96))
    first.train()
    first.saver.save()
    state = first.store.load_newest()
    assert state is not None
    registry = CollectorRegistry()
    second = Learner(tmp_path, registry, updates=5)
    second.step.restore(state.update)
    replay = Replay.of(CONFIG, SPEC, second.step.device, "cached", state, term=2)
    reporter = Reporter(
        CONFIG,
        second.step,
        replay,
        second.reporter._publisher,
        second.reporter._member,
        second.reporter._watch,
        second.reporter._metric_logger,
        second.metrics,
    )
    replay.intake.put_fresh(1, make_segment(32))
    replay.intake.take()
    reporter.report(LEARNER_STATE_WAITING)
    progress = reporter.progress()
    assert (progress.updates, progress.samples_trained) == (3, 6)
    assert [(one.received, one.lost, one.recovered) for one in progress.shards] == [(32, 0, 0), (64, 64, 32)]

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"sbrl_learner_{name}", labels)

    assert value("updates_total") == value("samples_trained_total") == 0.0
    assert value("network_updates") == 3.0
    assert value("transitions_received_total", shard="1") == 32.0
    assert value("transitions_lost_total", shard="1") in (None, 0.0)
    assert value("transitions_recovered_total", shard="1") == 32.0
    assert value("samples_due") == progress.samples_due - progress.samples_trained
    assert value("state", state="waiting") == 1.0
    assert sum(value("state", state=name) or 0.0 for name in ("filling", "warming", "waiting", "training")) == 1.0


def test_the_state_follows_what_the_learner_can_do(tmp_path: Path) -> None:
    learner = Learner(tmp_path, CollectorRegistry(), updates=1)
    filling = learner.filling
    assert learner.training.state != LEARNER_STATE_WARMING
    filling.update_progress(0.0)
    assert learner.training.state == LEARNER_STATE_WARMING
    learner.replay.ratio.receive(5)
    assert learner.training.state == LEARNER_STATE_TRAINING
    learner.replay.ratio.train()
    assert learner.training.state == LEARNER_STATE_WAITING


def test_progress_before_the_first_report_says_nothing_of_the_state(tmp_path: Path) -> None:
    """A heartbeat may ask for it before anything has begun."""
    learner = Learner(tmp_path, CollectorRegistry(), updates=1)
    progress = learner.reporter.progress()
    assert progress.max_priority == 1.0
    assert LearnerProgress.FromString(progress.SerializeToString()) == progress
    assert [one.received for one in progress.shards] == [0, 0]

"""When a learner saves: failed writes are tried again, and a learner that may have been replaced waits."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from learner import checkpoint
from learner.checkpoint import CheckpointStore
from learner.ratio import Ratio, RatioSettings
from learner.saving import RETRY_SECONDS, Saver
from sbrl.coordination.weights import StaleTermError
from sbrl.errors import RunError
from sbrl.replay.receipts import Receipts
from sbrl.storage import checkpoints
from tests.learners import FixedBatches, Learner, make_segment

INTERVAL = 60.0


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    """Three updates, of what it has received."""
    learner = Learner(tmp_path, CollectorRegistry(), updates=3, interval_seconds=INTERVAL)
    learner.replay.intake.put_fresh(1, make_segment(0))
    learner.train()
    return learner


def begin(saver: Saver) -> float:
    return saver._saved_time


def count(learner: Learner, name: str) -> float:
    return float(getattr(learner.metrics, name)._value.get())


def test_a_checkpoint_says_what_was_received_and_trained(learner: Learner) -> None:
    learner.saver.save()
    state = learner.store.load_newest()
    assert state is not None
    assert state.update.updates == 3
    assert state.counters["samples_trained"] == 6
    assert state.counters["max_priority"] == learner.replay.batches.max_priority()
    assert state.counters["env_steps"] == 1000
    assert Receipts.from_state(state.received["receipts"]).of_shard(1) == (32, 0, 0, 0)
    settings = RatioSettings(min_size=4, samples_per_insert=2.0, batch_size=2, ahead=64)
    restored = Ratio.restored(settings, state.received["ratio"])
    assert (restored.received, restored.due, restored.trained) == (32, 56.0, 6)


def test_it_is_saved_when_it_is_time(learner: Learner) -> None:
    start = begin(learner.saver)
    learner.saver.save_if_due(start + INTERVAL - 1)
    assert learner.store.checkpoints() == []
    learner.saver.save_if_due(start + INTERVAL)
    assert len(learner.store.checkpoints()) == 1
    assert count(learner, "checkpoints") == 1


def test_what_the_disk_refuses_is_tried_again_after_a_while(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, full = checkpoints.write_checkpoint, [True]

    def write_or_refuse(*arguments: Any) -> Path:
        if full[0]:
            raise RunError(f"cannot write checkpoint x: {os.strerror(errno.ENOSPC)}")
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write_checkpoint", write_or_refuse)
    now = begin(learner.saver) + INTERVAL
    learner.saver.save_if_due(now)
    learner.saver.save_if_due(now + RETRY_SECONDS - 1)  # not at once: the disk is as full
    assert count(learner, "checkpoint_failures") == 1
    learner.saver.save_if_due(now + RETRY_SECONDS)
    assert count(learner, "checkpoint_failures") == 2
    full[0] = False
    learner.saver.save_if_due(now + 2 * RETRY_SECONDS)
    assert (count(learner, "checkpoint_failures"), count(learner, "checkpoints")) == (2, 1)
    assert len(learner.store.checkpoints()) == 1
    assert "checkpoint failed: cannot write checkpoint x: No space left on device; trying again in 10 s" in caplog.text


def test_the_last_one_says_that_it_failed(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the program's last save: a silent failure would lose training."""

    def refuse(*arguments: Any) -> Path:
        raise RunError("cannot write checkpoint x: No space left on device")

    monkeypatch.setattr(CheckpointStore, "save", refuse)
    with pytest.raises(RunError, match="No space left"):
        learner.saver.save()


def test_a_learner_that_was_replaced_saves_nothing(learner: Learner, caplog: pytest.LogCaptureFixture) -> None:
    def replaced() -> None:
        raise StaleTermError("another learner has taken over")

    learner.saver._check = replaced
    with pytest.raises(StaleTermError):
        learner.saver.save_if_due(begin(learner.saver) + INTERVAL)
    assert learner.store.checkpoints() == []
    assert count(learner, "checkpoint_failures") == 0


def test_nothing_is_saved_before_it_is_known_that_this_is_the_learner_still(learner: Learner) -> None:
    """After SIGSTOP, its lease may have ended. It waits for the coordinator's answer, and then saves without more delay."""
    answered: list[bool] = []
    learner.saver.hold_until(lambda: bool(answered))
    now = begin(learner.saver) + INTERVAL
    for second in range(3):
        learner.saver.save_if_due(now + second)
    assert learner.store.checkpoints() == []
    answered.append(True)
    learner.saver.save_if_due(now + 3)
    assert len(learner.store.checkpoints()) == 1


def test_the_loop_notices_that_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn took as long as a lease: the process or its machine was stopped."""
    learner = Learner(tmp_path, CollectorRegistry(), updates=4, batches=FixedBatches(), interval_seconds=0.0)
    learner.replay.ratio.receive(1000)
    asked: list[float] = []
    jump = iter([0.0, 0.0, 20.0])  # seconds that the clock jumps, turn by turn
    start = begin(learner.saver)
    clock = [start]

    def has_exchanged_since(since: float) -> bool:
        asked.append(since)
        return False

    def check_fenced() -> None:
        clock[0] += next(jump, 0.0)

    monkeypatch.setattr("learner.loop.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(learner, "has_exchanged_since", has_exchanged_since)
    monkeypatch.setattr(learner, "check_fenced", check_fenced)
    saves: list[int] = []
    monkeypatch.setattr(learner.saver, "save", lambda: saves.append(learner.step.updates))
    learner.train()
    assert set(asked) == {start + 20.0}  # answers to earlier requests prove nothing
    assert saves == [0, 1]  # of four turns; none once it may have been replaced


def test_a_state_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    learner = Learner(tmp_path, CollectorRegistry(), updates=1, batches=FixedBatches())
    learner.replay.ratio.receive(1000)
    learner.train()
    next(iter(learner.step.state().online.values())).fill_(math.nan)
    with pytest.raises(RunError, match="not finite"):
        learner.saver.save_if_due(begin(learner.saver) + math.inf)
    assert learner.store.checkpoints() == []

"""A learner whose disk refuses a checkpoint says so, goes on, and tries again."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from sbrl.errors import RunError
from sbrl.weights import StaleEpochError
from tests.monitoring.test_learner_readings import make_loop


class FullDisk:
    """Takes the third checkpoint, and none before."""

    def __init__(self, error: RunError) -> None:
        self.error, self.tried = error, 0

    def save(self, *arguments: object) -> Path:
        self.tried += 1
        if self.tried < 3:
            raise self.error
        return Path("checkpoint")


def run_on(disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    monkeypatch.setattr("learner.loop.RETRY_SECONDS", 0.0)
    registry = CollectorRegistry()
    loop = make_loop(registry, lambda loop: None, steps=6)
    instructions = SimpleNamespace(env_steps=0, checkpoint_wanted=False)
    loop._store = cast(Any, disk)
    loop._member = cast(
        Any, SimpleNamespace(instructions=instructions, check_fenced=lambda: None, beat_now=lambda: instructions)
    )
    loop._reports = cast(
        Any,
        SimpleNamespace(is_due=lambda now: disk.tried < 3, repeat=lambda now: False, needed=lambda now: set()),
    )
    loop.run()
    return registry


def test_what_the_disk_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    disk = FullDisk(RunError("cannot write checkpoint x: No space left on device"))
    with caplog.at_level(logging.ERROR):
        registry = run_on(disk, monkeypatch)
    assert disk.tried == 3
    assert registry.get_sample_value("sbrl_learner_checkpoint_failures_total") == 2
    assert registry.get_sample_value("sbrl_learner_checkpoints_total") == 1
    assert "checkpoint failed: cannot write checkpoint x: No space left on device; trying again" in caplog.text


def test_a_learner_that_was_replaced_does_not_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StaleEpochError):
        run_on(FullDisk(StaleEpochError("another has taken over")), monkeypatch)

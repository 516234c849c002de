"""What a role reports of its checkpoints, and which it keeps for generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sbrl import checkpoint_reports
from sbrl.checkpoint_reports import RETRY_SECONDS, CheckpointReports
from sbrl.errors import RunError
from sbrl.fleet import Instructions, RunState
from sbrl.generation_log import GenerationLog

DIGEST = "0" * 64


class Member:
    """Notes what is reported; fails as often as it is told to."""

    def __init__(self) -> None:
        self.has_joined = True
        self.reported: list[tuple[int, str]] = []
        self.failures = 0

    def report_checkpoint(self, generation: int, checkpoint: str, *_: object) -> None:
        if self.failures:
            self.failures -= 1
            raise RunError("no answer")
        self.reported.append((generation, checkpoint))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(checkpoint_reports, "time", made)
    return made


def make(tmp_path: Path) -> tuple[CheckpointReports, Any, GenerationLog]:
    member, log = Member(), GenerationLog(tmp_path)
    return CheckpointReports(member, log), member, log  # type: ignore[arg-type]


def asked(generation: int, *, wanted: bool = True, kept: tuple[int, ...] = ()) -> Instructions:
    base = Instructions(RunState.RUNNING, 0, 0, 0)
    return base._replace(generation=generation, checkpoint_wanted=wanted, kept_generations=kept)


def test_a_report_that_fails_is_repeated_with_the_same_checkpoint(tmp_path: Path, clock: Clock) -> None:
    reports, member, log = make(tmp_path)
    assert not reports.is_due(asked(1, wanted=False))
    assert reports.is_due(asked(1))
    assert not reports.repeat(asked(1))  # nothing is there yet: the role saves
    member.failures = 1
    reports.report(1, "a", 5, DIGEST, {})
    assert not reports.is_due(asked(1))  # at once: the next beat may say that it has arrived
    clock.now += RETRY_SECONDS
    assert reports.is_due(asked(1))
    assert reports.repeat(asked(1))
    reports.report(1, "b", 5, DIGEST, {})  # a later checkpoint is not the generation's: the first may be committed
    assert member.reported == [(1, "a")]
    assert log.checkpoints == {"a"}
    assert reports.is_due(asked(2))  # another generation does not wait
    assert not reports.repeat(asked(2))


def test_generations_that_are_never_complete_keep_no_checkpoints(tmp_path: Path, clock: Clock) -> None:
    reports, _, _ = make(tmp_path)
    for generation in range(1, 21):
        kept = (1, 2) if generation > 2 else ()
        reports.report(generation, f"checkpoint-{generation}", 5, DIGEST, {})
        needed = reports.needed(asked(generation, kept=kept))
        if generation > 2:
            assert needed == {"checkpoint-1", "checkpoint-2", f"checkpoint-{generation}"} & needed
            assert f"checkpoint-{generation}" in needed
            assert len(needed) <= 3


def test_before_the_coordinator_has_said_which_are_kept_all_are(tmp_path: Path, clock: Clock) -> None:
    GenerationLog(tmp_path).record(3, "a")
    reports, member, _ = make(tmp_path)
    member.has_joined = False
    assert reports.needed(Instructions(RunState.RUNNING, 0, 0, 0)) == {"a"}
    member.has_joined = True
    assert reports.needed(asked(5, kept=(4,))) == set()

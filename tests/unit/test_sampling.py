"""The choice between cached and remote sampling, and its messages."""

from __future__ import annotations

import pytest
import torch

from learner.__main__ import decide_sampling
from sbrl.config import Config, load
from sbrl.envs.make import make_spec
from sbrl.errors import UsageError
from sbrl.replay.sampling import OTHER_BYTES, choose_sampling
from sbrl.v1.fleet_pb2 import SAMPLING_CACHED, SAMPLING_REMOTE, GetStatusResponse, LearnerProgress

CPU = torch.device("cpu")


def config(sampling: str, capacity: int = 1000) -> Config:
    return load(
        overrides=["env.id=CartPole-v1", f"replay.sampling={sampling}", f"replay.capacity={capacity}", "replay.min_size=100"]
    )


@pytest.mark.parametrize(
    ("asked", "needed", "chosen"),
    [
        ("auto", 7 * 10**9, "cached"),
        ("auto", 7 * 10**9 + 1, "remote"),
        ("cached", 7 * 10**9, "cached"),
        ("remote", 1, "remote"),
    ],
)
def test_auto_takes_the_memory_that_fits_and_says_why(asked: str, needed: int, chosen: str) -> None:
    choice = choose_sampling(config(asked), needed, 10**10, "the machine")
    assert choice.sampling == chosen
    expected = (
        "replay.sampling=remote"
        if asked == "remote"
        else f"a replay memory of 1,000 transitions takes {needed:,} bytes when full, and 7,000,000,000 may be used "
        "(70% of the machine, and all but 600 MB)"
    )
    assert choice.reason == expected


def test_a_memory_that_was_asked_for_and_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"takes 701 bytes when full, and 700 may be used .* set replay.sampling=remote"):
        choose_sampling(config("cached"), 701, OTHER_BYTES + 700, "the machine")  # too little for its libraries and 701 bytes


def test_auto_looks_at_this_machine(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spec = make_spec(config("auto").env)
    assert decide_sampling(config("auto"), spec, CPU, GetStatusResponse()) == "cached"
    assert decide_sampling(config("auto", 2**31 - 1), spec, CPU, GetStatusResponse()) == "remote"
    assert "replay is remote: a replay memory of 2,147,483,647 transitions takes" in caplog.text


@pytest.mark.parametrize(("before", "other"), [("cached", "remote"), ("remote", "cached")])
def test_a_run_keeps_the_kind_it_began_with(before: str, other: str) -> None:
    spec, code = make_spec(config("auto").env), SAMPLING_CACHED if before == "cached" else SAMPLING_REMOTE
    status = GetStatusResponse(progress=LearnerProgress(sampling=code))
    for asked in ("auto", before):
        assert decide_sampling(config(asked), spec, CPU, status) == before
    with pytest.raises(UsageError, match=f"replay.sampling is {other}, but this run's .* {before} .* start a new run"):
        decide_sampling(config(other), spec, CPU, status)

"""There is only one learner. A second one waits, and takes over when the first one's lease ends."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from sbrl.coordination.fleet import RunState
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import StaleTermError, WeightsClient
from sbrl.errors import RunError
from sbrl.rpc.channels import CoordinatorUnavailable
from tests.coordinator import Clock, serve

WAIT = 30.0


def learner(address: str, name: str) -> FleetMember:
    return FleetMember(address, "learner", name, counters=lambda: {"updates": 1.0})


def test_a_second_learner_waits_until_the_first_is_gone(tmp_path: Path) -> None:
    with serve(tmp_path) as address:
        first, second = learner(address, "learner"), learner(address, "spare")
        first.send_heartbeat()
        with pytest.raises(CoordinatorUnavailable, match="learner is this run's learner, and alive: stop it, or wait"):
            second.send_heartbeat()
        with pytest.raises(RunError, match="has not joined"):
            _ = second.incarnation
        second.start()  # which goes on trying
        assert not second.wait_joined_or(timer(2.0))
        assert first.send_heartbeat().state is RunState.RUNNING, "the first one is not disturbed"
        first.leave()
        second.wait_joined(WAIT)
        assert second.index == 0, "there is one place"
        second.leave()


def test_a_learner_that_wakes_up_after_another_took_its_turn_can_neither_publish_nor_report(tmp_path: Path) -> None:
    clock = Clock()
    with serve(tmp_path, clock) as address:
        weights = WeightsClient(address)
        first, second = learner(address, "learner"), learner(address, "spare")
        first.send_heartbeat()
        term, _ = weights.acquire_term("first")
        first.hold_term(term)
        for _ in range(20):  # the first one is stopped; the coordinator is not
            clock.now += 1.0
            with contextlib.suppress(CoordinatorUnavailable):
                second.send_heartbeat()
        assert second.incarnation
        newer, _ = weights.acquire_term("second")
        second.hold_term(newer)
        second.send_heartbeat()
        with pytest.raises(StaleTermError):
            first.send_heartbeat()
        with pytest.raises(StaleTermError):
            weights.publish(save({"w": np.zeros(1, np.float32)}), term, 1)
        second.leave()
        weights.close()


def timer(seconds: float) -> threading.Event:
    """An event that is set after so long."""
    event = threading.Event()
    thread = threading.Timer(seconds, event.set)
    thread.daemon = True
    thread.start()
    return event

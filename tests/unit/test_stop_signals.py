"""Requests to stop: their number, the time that they leave, and the signals that make them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sbrl.runtime.stop_signals import HURRY_SECONDS, STOP_SECONDS, StopRequest

WAIT = 30.0
PROGRAM = """
import os, signal, threading
from sbrl.runtime.stop_signals import catch_stop_signals
received, names = threading.Event(), []
def note(number):
    names.append(number.name)
    received.set()
catch_stop_signals(note)
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGTERM)
received.wait()
print(names[0])
"""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_second_request_shortens_a_stop_and_the_third_ends_it() -> None:
    clock = Clock()
    stop = StopRequest(clock)
    assert not stop.is_requested
    assert stop.ask() == 1
    assert stop.is_requested
    assert (stop.is_urgent, stop.seconds_left) == (False, STOP_SECONDS)
    clock.now += 5
    assert stop.ask() == 2
    assert (stop.is_urgent, stop.seconds_left) == (True, HURRY_SECONDS)
    clock.now += 2
    assert stop.ask() == 3
    assert stop.seconds_left == 0
    clock.now += 2
    assert stop.ask() == 4
    assert stop.seconds_left == -2


def test_signals_close_together_are_one_request() -> None:
    clock = Clock()
    stop = StopRequest(clock)
    stop.ask()
    clock.now += 0.5
    assert stop.ask() == 1
    assert not stop.is_urgent


def test_a_stop_that_nobody_asked_for_has_its_time_too() -> None:
    clock = Clock()
    stop = StopRequest(clock)
    stop.begin()
    assert (stop.is_requested, stop.seconds_left) == (False, STOP_SECONDS)
    clock.now += STOP_SECONDS - 1
    assert stop.ask() == 1
    assert stop.seconds_left == 1, "a request gives no more time than there is"


@pytest.mark.parametrize(("ignored", "first"), [(False, "SIGHUP"), (True, "SIGTERM")], ids=["terminal", "nohup"])
def test_a_hangup_asks_to_stop_unless_it_was_ignored_from_the_start(ignored: bool, first: str) -> None:
    # Set explicitly in both cases: the tests themselves may have been started by nohup.
    prefix = ["env", "--ignore-signal=HUP" if ignored else "--default-signal=HUP"]
    done = subprocess.run([*prefix, sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=WAIT, check=True)
    assert done.stdout.strip() == first

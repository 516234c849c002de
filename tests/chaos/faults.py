"""Injects faults into a run, undoes them, and measures how long the run then takes to continue."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from sbrl.monitor.observation import ANSWER_SECONDS, SERVING, health_of, processes_of
from tests.chaos.proxy import Link
from tests.chaos.watch import WORK, Watch
from tests.smoke.conftest import LocalRun

POLL_SECONDS = 0.1
BACK_SECONDS = 120.0  # a killed role must be back within this: its program loads TensorFlow on a busy machine
GO_ON_SECONDS = 60.0  # both kinds of work must continue within this, or the test ends
STOP_SECONDS = 10.0  # the promise: the longest time without any work once a role is back
SLOW_SHARE = 0.1


class Outcome(NamedTuple):
    """The outcome of a fault. All times in seconds."""

    kind: str
    victim: str
    at: float  # since the faults began
    lasted: float  # from the fault until it was undone, or the killed role was back
    stall_during: float  # the longest time within that without a step, or without an update
    until_steps: float  # from then on
    until_updates: float
    stall: float  # the longest time without a step, or without an update, from then until the next fault
    stop: float  # the longest time without either


class NotBackError(AssertionError):
    """A role did not return, or the run did not continue."""


class Injector:
    """Injects faults into the roles of one run, one after the other."""

    def __init__(self, run: LocalRun, watch: Watch, links: Mapping[str, Mapping[str, Link]]) -> None:
        """Args: links: role's name -> server's name -> the link between them."""
        self._run, self._watch, self._links = run, watch, links
        self._start = time.monotonic()
        self._open: list[tuple[str, str, float, float]] = []  # kind, victim, begin, end of the fault not reported yet
        self.outcomes: list[Outcome] = []

    def continue_with(self, run: LocalRun) -> None:
        """The run was started again."""
        self._run = run

    def processes(self) -> dict[str, int]:
        """The run's living role processes by name."""
        return {process.name: process.process_id for process in processes_of(self._run.directory)}

    def kill(self, *victims: str) -> None:
        """Sends SIGKILL to all of them at once, and waits for their successors."""
        with self._fault("kill -9", " and ".join(victims)):
            processes = [self._process(victim) for victim in victims]
            for process in processes:
                os.kill(process, signal.SIGKILL)
            for victim, process in zip(victims, processes, strict=True):
                self._wait(partial(self._is_back, victim, process), f"return of {victim}", BACK_SECONDS)

    def stop(self, victim: str, seconds: float) -> None:
        """Stops a role with SIGSTOP for `seconds`."""
        process = self._process(victim)
        with self._fault("SIGSTOP", victim):
            os.kill(process, signal.SIGSTOP)
            try:
                self._hold(seconds)
            finally:
                os.kill(process, signal.SIGCONT)

    def cut(self, victim: str, seconds: float) -> None:
        """Cuts all links of a role for `seconds`."""
        with self._fault("cut off", victim):
            for link in self._links_of(victim):
                link.cut()
            self._hold(seconds)
            for link in self._links_of(victim):
                link.mend()

    def slow(self, victim: str, seconds: float, measured_seconds: float) -> None:
        """Slows each of its links to a tenth of its former rate for `seconds`."""
        links = list(self._links_of(victim))
        before = [link.bytes_passed for link in links]
        self._hold(measured_seconds)
        rates = [(link.bytes_passed - passed) / measured_seconds for link, passed in zip(links, before, strict=True)]
        with self._fault("slowed to 10 %", victim):
            for link, rate in zip(links, rates, strict=True):
                link.slow(max(100.0, SLOW_SHARE * rate))
            self._hold(seconds)
            for link in links:
                link.mend()

    def pause(self, seconds: float) -> None:
        """Lets the run continue for `seconds`."""
        self._hold(seconds)

    def settle(self) -> None:
        """Ends the time that is attributed to the last fault."""
        now = time.monotonic()
        for kind, victim, begin, end in self._open:
            self.outcomes.append(
                Outcome(
                    kind=kind,
                    victim=victim,
                    at=begin - self._start,
                    lasted=end - begin,
                    stall_during=self._watch.longest_stall(begin, end),
                    until_steps=self._watch.first_work("steps", end, now),
                    until_updates=self._watch.first_work("updates", end, now),
                    stall=self._watch.longest_stall(end, now),
                    stop=self._watch.longest_stop(end, now),
                )
            )
        self._open.clear()

    @contextmanager
    def _fault(self, kind: str, victim: str) -> Iterator[None]:
        self.settle()
        begin = time.monotonic()
        yield
        end = time.monotonic()
        self._open.append((kind, victim, begin, end))
        self._wait(lambda: self._watch.worked_since(end), f"{' and '.join(WORK)} after {victim} was {kind}", GO_ON_SECONDS)

    def _process(self, victim: str) -> int:
        self._wait(lambda: victim in self.processes(), f"{victim} to do it to", BACK_SECONDS)
        return self.processes()[victim]

    def _is_back(self, victim: str, killed: int) -> bool:
        member = next((one for one in self._watch.status.members if one.name == victim and one.alive), None)
        return (
            member is not None
            and member.process_id != killed
            and self._watch.status_age_seconds < 1.0
            and health_of(member.health_address, ANSWER_SECONDS) == SERVING
        )

    def _links_of(self, victim: str) -> Iterable[Link]:
        for client, ways in self._links.items():
            for server, link in ways.items():
                if victim in (client, server):
                    yield link

    def _hold(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_running()
            time.sleep(POLL_SECONDS)

    def _wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._check_running()
            if time.monotonic() > deadline:
                raise NotBackError(f"no {what} within {seconds:.0f} s:\n{self._run.text()[-2000:]}\n{self._run.logs()}")
            time.sleep(POLL_SECONDS)

    def _check_running(self) -> None:
        if not self._run.is_running:
            raise NotBackError(f"the run has ended:\n{self._run.text()[-2000:]}\n{self._run.logs()}")


def kill_everything(run: LocalRun) -> None:
    """Sends SIGKILL to all roles and at once to the launcher, as in a power failure."""
    processes = [process.process_id for process in processes_of(run.directory)]
    for process in (*processes, run.process_id):
        os.kill(process, signal.SIGKILL)
    run.wait(10)
    deadline = time.monotonic() + 10
    while processes_of(run.directory):
        assert time.monotonic() < deadline, "a role outlived SIGKILL"
        time.sleep(POLL_SECONDS)

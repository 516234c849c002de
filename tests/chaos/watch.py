"""Records a run's progress twice a second. Counts come from the roles, so a lost coordinator hides nothing."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.fleet_watch import FleetWatch
from sbrl.monitor.observation import DIRECT, processes_of
from sbrl.monitor.run_status import RunStatus
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member

LOOK_SECONDS = 0.5
ANSWER_SECONDS = 1.0  # time limit, because a stopped process does not answer
Work = Literal["steps", "updates"]
WORK: tuple[Work, ...] = get_args(Work)
# The evidence of each kind of work: the role that counts it, and its metric.
_COUNTERS: Mapping[Work, tuple[str, re.Pattern[str]]] = {
    "steps": ("actor", re.compile(r"^sbrl_actor_env_steps_total (\S+)$", re.MULTILINE)),
    "updates": ("learner", re.compile(r"^sbrl_learner_updates_total (\S+)$", re.MULTILINE)),
}


class Sample(NamedTuple):
    """The coordinator's answer at one time."""

    time: float
    run: RunStatus
    totals: Mapping[str, float]
    learner: int  # the live learner's incarnation; 0 if there is none
    loss: float | None  # its newest loss


class Watch:
    """Looks at a run from `start` to `stop`; all times are of the monotonic clock."""

    def __init__(self, run_directory: Path, coordinator_address: str, min_size: int) -> None:
        """Args: coordinator_address: the real one, not a proxy's. min_size: replay.min_size."""
        self._directory, self._min_size = run_directory, min_size
        self._client = FleetClient(coordinator_address)
        self._fleet = FleetWatch(self._client, LOOK_SECONDS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._seen: dict[int, float] = {}  # by process: its counter
        self._worked: dict[Work, list[float]] = {work: [] for work in WORK}
        self._noted = GetStatusResponse()
        self.samples: list[Sample] = []

    def start(self) -> None:
        self._fleet.start()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._fleet.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self._client.close()

    @property
    def status(self) -> GetStatusResponse:
        """The coordinator's newest answer."""
        return self._fleet.status

    @property
    def status_age_seconds(self) -> float:
        return self._fleet.age_seconds

    def worked_since(self, start: float) -> bool:
        """Whether both steps were taken and updates made after `start`."""
        return all(times and times[-1] > start for times in self._worked.values())

    def first_work(self, work: Work, start: float, end: float) -> float:
        """Seconds from `start` to the first look that saw more of this work; to `end` if there was none."""
        return next((moment for moment in self._worked[work] if moment > start), end) - start

    def longest_stall(self, start: float, end: float) -> float:
        """The longest time between `start` and `end` in which no step was taken, or no update made."""
        longest = 0.0
        for work in WORK:
            inside = [start, *(moment for moment in self._worked[work] if start < moment < end), end]
            longest = max(longest, max(later - earlier for earlier, later in itertools.pairwise(inside)))
        return longest

    def longest_stop(self, start: float, end: float) -> float:
        """The longest time between `start` and `end` in which neither a step was taken nor an update made."""
        worked = sorted(itertools.chain.from_iterable(self._worked.values()))
        inside = [start, *(moment for moment in worked if start < moment < end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(inside))

    def _run(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            while not self._stopped.wait(LOOK_SECONDS):
                self._note_totals()
                at_work = {process.process_id for process in processes_of(self._directory)}
                list(pool.map(self._look, [member for member in self.status.members if member.process_id in at_work]))

    def _note_totals(self) -> None:
        status = self.status
        if not status.totals or status is self._noted:
            return
        self._noted = status
        learner = next((member for member in status.members if member.role == "learner" and member.alive), None)
        number, loss = (0, None) if learner is None else (learner.incarnation, learner.gauges.get("loss"))
        run = RunStatus.of(status, self._min_size)
        self.samples.append(Sample(time.monotonic(), run, dict(status.totals), number, loss))

    def _look(self, member: Member) -> None:
        for work, (role, pattern) in _COUNTERS.items():
            if member.role != role:
                continue
            try:
                with DIRECT.open(f"http://{member.metrics_address}/metrics", timeout=ANSWER_SECONDS) as response:
                    found = pattern.search(response.read().decode())
            except OSError:  # it is stopped, or has just ended
                return
            value = float(found[1]) if found else 0.0
            if value > self._seen.get(member.process_id, 0.0):
                self._worked[work].append(time.monotonic())
                self._seen[member.process_id] = value

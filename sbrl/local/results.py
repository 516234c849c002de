"""The results that a local run writes to its directory: episodes.csv, evaluations.csv and summary.json."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from sbrl.config import Config
from sbrl.coordination.episode_log import CALL_SECONDS, LogClient
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import RunError
from sbrl.monitor.summary import summarize, write_summary
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import GrowingEpisodes, write_evaluations
from sbrl.v1.episodes_pb2 import Episode
from sbrl.v1.fleet_pb2 import GetStatusResponse

RESULTS_SECONDS = 10.0  # between two updates of the results while the run is active


class RunResults:
    """Updates the results every ten seconds while the run is active, and once more at its end.

    It works in the background: reading a log of millions of episodes takes a minute, and the launcher has roles to restart.
    """

    def __init__(
        self,
        config: Config,
        run_directory: RunDirectory,
        fleet: FleetClient,
        wall_seconds: Callable[[], float],
        say: Callable[[str], None],
        interval_seconds: float = RESULTS_SECONDS,
    ) -> None:
        """
        Args:
            fleet: the caller closes it, after `close`.
            wall_seconds: returns the seconds of training so far, over all sessions of the run.
            say: tells the user about problems; called from another thread.
        """
        self._config, self._directory, self._fleet = config, run_directory, fleet
        self._wall_seconds, self._say, self._interval = wall_seconds, say, interval_seconds
        self._log = LogClient(config.network.coordinator_address)
        self._episodes = GrowingEpisodes(run_directory.episodes, self._read)
        self._ending = threading.Event()
        self._may_go_on: Callable[[], bool] = lambda: not self._ending.is_set()
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        """Starts updating the results."""
        self._thread.start()

    def begin_end(self) -> None:
        """Starts no further update, so that `finish` does not wait for one."""
        self._ending.set()

    def finish(self, status: GetStatusResponse, complete: bool, has_log: bool, may_go_on: Callable[[], bool]) -> None:
        """After `start`: updates all results to the run's `status`. There are no updates after that.

        Args:
            has_log: whether a coordinator can serve episodes and evaluations; if not, their files stay as they are.
            may_go_on: returns whether there is time to read more of the log.

        Raises:
            RunError: some results could not be written, because the coordinator does not answer, the file system refuses, or
                there was no time. Their files stay as they were.
        """
        self._end()
        write_summary(self._directory.summary, summarize(self._config, status, self._wall_seconds(), complete))
        if has_log:
            self._may_go_on = may_go_on
            write_evaluations(self._directory.evaluations, self._log.read_evaluations())
            try:
                self._episodes.follow()
            except _Ended:
                raise RunError(f"{self._directory.episodes} lacks the newest episodes: no time was left to read them") from None

    def close(self) -> None:
        """Stops writing and closes the connection."""
        self._end()
        self._log.close()

    def _end(self) -> None:
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()  # a call in flight ends at its deadline

    def _run(self) -> None:
        while not self._ending.wait(self._interval):
            try:
                status = self._fleet.status()
                self._episodes.follow()
                write_evaluations(self._directory.evaluations, self._log.read_evaluations())
                write_summary(self._directory.summary, summarize(self._config, status, self._wall_seconds(), False))
            except _Ended:
                return
            except (RunError, OSError) as error:  # the files stay as they are
                self._say(f"results not brought up to date: {error}")

    def _read(self, after_row: int) -> Iterator[tuple[int, list[Episode]]]:
        for page in self._log.read_episodes(after_row, CALL_SECONDS):
            if not self._may_go_on():
                raise _Ended
            yield page


class _Ended(Exception):
    """There is no time to read more of the log; the update is abandoned."""

"""Client of the coordinator's durable log of training episodes and evaluations."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from sbrl.errors import RunError
from sbrl.rpc import channels
from sbrl.v1 import episodes_pb2, episodes_pb2_grpc
from sbrl.v1.episodes_pb2 import Episode, Evaluation

MAX_EPISODES_PER_CALL = 1000
CALL_SECONDS = 5.0
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class LogClient:
    """The coordinator's log service. Every call has a deadline and may be repeated: each record counts once."""

    def __init__(self, address: str) -> None:
        """Args: address: host:port of the coordinator; nothing connects before the first call."""
        self._address = address
        self._channel = channels.open_channel(address)
        self._stub = episodes_pb2_grpc.LogStub(self._channel)

    def append_episodes(
        self, episodes: Sequence[Episode], timeout: float = CALL_SECONDS
    ) -> episodes_pb2.AppendEpisodesResponse:
        """Appends up to 1,000 episodes. When this returns they are durable, except those that the answer names as refused.

        Raises:
            CoordinatorUnavailable: no answer within `timeout` seconds.
            RunError: the coordinator refused all of them.
        """
        request = episodes_pb2.AppendEpisodesRequest(episodes=episodes)
        with channels.coordinator_errors(self._address):
            response: episodes_pb2.AppendEpisodesResponse = self._stub.AppendEpisodes(request, timeout=timeout)
        return response

    def append_evaluation(self, evaluation: Evaluation, timeout: float = 60.0) -> None:
        """Appends one evaluation, which is durable when this returns. Waits for an absent coordinator within `timeout`.

        Raises:
            CoordinatorUnavailable: no answer within `timeout` seconds.
        """
        request = episodes_pb2.AppendEvaluationRequest(evaluation=evaluation)
        with channels.coordinator_errors(self._address):
            self._stub.AppendEvaluation(request, timeout=timeout, wait_for_ready=True)

    def read_episodes(self, after_row: int = 0, timeout: float = 60.0) -> Iterator[tuple[int, list[Episode]]]:
        """Yields pages of episodes, oldest first, each with the `after_row` for a later call.

        Each page is a separate call, because no single deadline suits both ten episodes and ten million.

        Raises:
            CoordinatorUnavailable: a page did not come within `timeout` seconds.
        """
        while True:
            request = episodes_pb2.ReadEpisodesRequest(after_row=after_row, limit=MAX_EPISODES_PER_CALL)
            with channels.coordinator_errors(self._address):
                responses = list(self._stub.ReadEpisodes(request, timeout=timeout))
            if not responses:
                return
            for response in responses:
                after_row = response.last_row
                yield after_row, list(response.episodes)

    def read_evaluations(self, timeout: float = CALL_SECONDS) -> list[Evaluation]:
        """All evaluations, oldest first.

        Raises:
            CoordinatorUnavailable: no answer within `timeout` seconds.
        """
        with channels.coordinator_errors(self._address):
            return list(self._stub.ReadEvaluations(episodes_pb2.ReadEvaluationsRequest(), timeout=timeout).evaluations)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


class EpisodeSender:
    """Sends episodes from a bounded buffer in the background, so that a playing loop never waits for it.

    Every added episode is sent, pending or counted in `dropped`.
    """

    def __init__(self, client: LogClient, capacity: int = 10_000) -> None:
        """Args: client: the caller closes it, after `close`. capacity: episodes to keep while the coordinator is away."""
        self._client = client
        self._capacity = capacity
        self._changed = threading.Condition()  # guards the fields below
        self._pending: deque[Episode] = deque()
        self._dropped = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="episodes", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def add(self, episode: Episode) -> None:
        """Queues an episode without waiting. If the buffer is full, the episode is dropped and counted."""
        with self._changed:
            if len(self._pending) < self._capacity:
                self._pending.append(episode)
                self._changed.notify_all()
                return
            self._dropped += 1
        _log.warning("episode dropped: %d wait for the coordinator already", self._capacity)

    @property
    def dropped(self) -> int:
        """Episodes lost because the buffer was full, or the coordinator refused them or was absent at the end."""
        with self._changed:
            return self._dropped

    @property
    def pending(self) -> int:
        """Episodes that the coordinator has not confirmed yet."""
        with self._changed:
            return len(self._pending)

    def close(self, timeout: float = 10.0) -> None:
        """After `start`: sends pending episodes for up to `timeout` seconds, drops and counts the rest, and stops."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout)
            self._closing = True
            self._changed.notify_all()
        self._thread.join()  # a call in flight ends at its deadline
        with self._changed:
            self._drop_first(len(self._pending), "the coordinator did not confirm them in time")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if self._closing:
                    return
                batch = list(islice(self._pending, MAX_EPISODES_PER_CALL))
            try:
                answer = self._client.append_episodes(batch)
            except channels.CoordinatorUnavailable as error:
                _log.debug("episodes kept for later: %s", error)  # the membership's heartbeats report the outage
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
            except RunError as error:
                with self._changed:
                    self._drop_first(len(batch), str(error))
            else:
                with self._changed:
                    self._remove_first(len(batch))
                    self._count_dropped(answer.refused, answer.reason)

    def _remove_first(self, count: int) -> None:
        for _ in range(count):
            self._pending.popleft()
        self._changed.notify_all()

    def _drop_first(self, count: int, reason: str) -> None:
        self._remove_first(count)
        self._count_dropped(count, reason)

    def _count_dropped(self, count: int, reason: str) -> None:
        self._dropped += count
        if count:
            _log.warning("%d episodes dropped: %s", count, reason)

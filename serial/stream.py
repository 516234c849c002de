"""One environment's stream to the single shard of a serial run: every item is confirmed before the next thing happens."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sbrl.replay.writer import EpisodeWriter, Transition

FLUSH_SECONDS = 60.0


class SerialStream:
    """A `actors.collector.Stream` without faults to survive: shard and learner are this very process."""

    def __init__(self, writer: EpisodeWriter, env: int) -> None:
        self._writer, self._env = writer, env

    @property
    def created(self) -> int:
        return self._writer.items_created

    def begin(self, observation: NDArray[Any]) -> None:
        self._writer.begin(0, observation, actor=0, incarnation=1, env=self._env)

    def append(self, transition: Transition, observation: NDArray[Any]) -> None:
        self._writer.append(transition)
        self._writer.flush(0, FLUSH_SECONDS)

    def end(self) -> None:
        self._writer.end()
        self._writer.close_episode(FLUSH_SECONDS)

    def close(self) -> None:
        self._writer.close()

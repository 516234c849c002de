"""The fast path: updates in blocks. Within a block, host and device do not synchronize.

One update is a function without arguments: draw, gather, loss, backward, clip, optimizer, target, priorities. Shapes never
change, and the update reads and writes only tensors that stay at the same address. On a CPU a block calls it K times eagerly:
that is the reference. On CUDA it is captured once and replayed K times. Work that needs the host happens between blocks:
resets, copies of the target network, diagnostics, publications, checkpoints, reports, and new segments.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from learner.algorithm.schedules import Horizon, HorizonSchedule
from learner.algorithm.update import UpdateStep
from learner.batches import Batches, Drawn, HorizonTensors, MemoryBatches
from learner.memory.storage import host_tensor
from learner.records import Batch, UpdateResult
from sbrl.config import Config

logger = logging.getLogger(__name__)

BLOCK_UPDATES = 16
BLOCK_SECONDS = 0.25  # a block of slow updates ends early after this: stopping, heartbeats and reports wait for its end
BLOCKS_AHEAD = 2  # blocks that the host may queue on the device before the first one is done
WARM_UP_UPDATES = 3  # eager updates before a capture: libraries allocate workspaces and choose kernels in them
WAIT_SECONDS = 0.5  # longest wait for a batch from Reverb before the loop turns to its other work


class Trained(NamedTuple):
    """Updates made in one go. The next block may overwrite the tensors of the last one."""

    updates: int
    drawn: Drawn  # of the last update
    result: UpdateResult  # of the last update


Phase = Callable[[str], AbstractContextManager[None]]


def untimed(name: str) -> AbstractContextManager[None]:
    """A phase that is not timed."""
    return nullcontext()


class Updates(Protocol):
    """Makes updates."""

    def run(self, most: int, phase: Phase = untimed) -> Trained | None:
        """Makes up to `most` >= 1 updates and counts them; None if there was no batch.

        Args:
            phase: times the phase that it gets the name of: sample, update.
        """
        ...


Update = Callable[[], tuple[Drawn, UpdateResult]]


class SingleUpdates:
    """One update at a time, on batches that come from the host."""

    def __init__(self, step: UpdateStep, batches: Batches, horizons: HorizonSchedule) -> None:
        self._step, self._batches, self._horizons = step, batches, horizons

    def run(self, most: int, phase: Phase = untimed) -> Trained | None:
        with phase("sample"):
            drawn = self._batches.next(self._horizons.at(self._step.updates), WAIT_SECONDS)
        if drawn is None:
            return None
        with phase("update"):
            result = self._step.update(drawn.batch)
            self._batches.update_priorities(drawn, result.priorities)
        return Trained(1, drawn, result)


class Blocks:
    """Many updates at a time, on batches from the memory on the device."""

    def __init__(
        self,
        step: UpdateStep,
        batches: MemoryBatches,
        horizons: HorizonSchedule,
        size: int = BLOCK_UPDATES,
        capture: Callable[[Update], Update] | None = None,
    ) -> None:
        """
        Args:
            size: K, the most updates in a block.
            capture: makes a graph of the update. None: a CUDA graph on CUDA, the update itself on a CPU.
        """
        self._step, self._batches, self._horizons, self._size = step, batches, horizons, size
        self._table = _HorizonTable(size, step.device)
        is_cuda = step.device.type == "cuda"
        if capture is None:
            capture = partial(CapturedUpdate, generators=[batches.generator]) if is_cuda else lambda update: update
        self._update = capture(self.update)
        self._pace: Callable[[], None] = _Pace() if is_cuda else lambda: None

    def run(self, most: int, phase: Phase = untimed) -> Trained:
        """Runs a block. It ends at the next edge, and after `most` updates at the latest."""
        with phase("update"):
            return self._run(most)

    def update(self) -> tuple[Drawn, UpdateResult]:
        """One update of a block, in eager mode. Counts nothing on the host."""
        return self._update_with(self._step.train)

    def _update_with(self, train: Callable[[Batch], UpdateResult]) -> tuple[Drawn, UpdateResult]:
        drawn = self._batches.next(self._table.next())
        result = train(drawn.batch)
        self._batches.update_priorities(drawn, result.priorities)
        return drawn, result

    def _run(self, most: int) -> Trained:
        step = self._step
        count = min(most, self._size, max(1, step.updates_to_edge()))
        self._table.fill([self._horizons.at(step.updates + k) for k in range(count)])
        if step.updates_to_edge() == 0:
            return self._run_with_diagnostics()
        start, made = time.perf_counter(), 0
        while made < count and (made == 0 or time.perf_counter() - start < BLOCK_SECONDS):
            drawn, result = self._update()
            made += 1
        step.advance(made)
        self._pace()
        return Trained(made, drawn, result)

    def _run_with_diagnostics(self) -> Trained:
        """Makes one update that diagnostics observe."""
        return Trained(1, *self._update_with(self._step.update))


class _HorizonTable:
    """The horizons of a block's updates. The table and the position in it are on the device."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._n_step = torch.ones(size, dtype=torch.int64, device=device)
        self._discount = torch.zeros(size, dtype=torch.float64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._held: list[Horizon] = []

    def fill(self, horizons: Sequence[Horizon]) -> None:
        """Begins a block with one update per horizon. Horizons that are already on the device are not sent again."""
        self._position.zero_()
        if self._held[: len(horizons)] == horizons:
            return
        n_step, discount = zip(*horizons, strict=True)
        self._send(self._n_step, np.array(n_step, np.int64))
        self._send(self._discount, np.array(discount, np.float64))
        self._held = list(horizons)

    def next(self) -> HorizonTensors:
        """The horizon of the next update."""
        n_step, discount = (column.gather(0, self._position)[0] for column in (self._n_step, self._discount))
        self._position += 1
        return HorizonTensors(n_step, discount)

    @staticmethod
    def _send(column: torch.Tensor, values: NDArray[Any]) -> None:
        column[: len(values)].copy_(host_tensor(values, column.device), non_blocking=True)


class CapturedUpdate:
    """An update as a CUDA graph: some eager updates first, which count like all others, then one capture, then replays."""

    def __init__(self, update: Update, generators: Sequence[torch.Generator]) -> None:
        """
        Args:
            update: reads and writes tensors that stay at the same address, in shapes that never change.
            generators: the generators that it draws from, beside torch's global one.
        """
        self._update, self._generators = update, generators
        self._stream = torch.cuda.Stream()
        self._warm_ups = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured: tuple[Drawn, UpdateResult]

    def __call__(self) -> tuple[Drawn, UpdateResult]:
        """One update. The next replay overwrites the tensors that it returns."""
        if self._graph is None and self._warm_ups < WARM_UP_UPDATES:
            self._warm_ups += 1
            return self._warm_up()
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()
        return self._captured

    def _warm_up(self) -> tuple[Drawn, UpdateResult]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            trained = self._update()
        current.wait_stream(self._stream)
        return trained

    def _capture(self) -> torch.cuda.CUDAGraph:
        start = time.perf_counter()
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # The publisher's thread may copy weights to the host meanwhile. thread_local keeps that from breaking the capture.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._captured = self._update()
        logger.info("update captured as a CUDA graph in %.1f s", time.perf_counter() - start)
        return graph


class _Pace:
    """Keeps the host at most BLOCKS_AHEAD blocks ahead of the device."""

    def __init__(self) -> None:
        self._ends: deque[torch.cuda.Event] = deque()

    def __call__(self) -> None:
        end = torch.cuda.Event()
        end.record()
        self._ends.append(end)
        if len(self._ends) > BLOCKS_AHEAD:
            self._ends.popleft().synchronize()


def make_updates(config: Config, step: UpdateStep, batches: Batches) -> Updates:
    """Blocks if the memory is on the learner's device; single updates if batches come from Reverb."""
    horizons = HorizonSchedule.of(config)
    if isinstance(batches, MemoryBatches):
        logger.info("updates in blocks of up to %d, %s", BLOCK_UPDATES, _way(config))
        return Blocks(step, batches, horizons)
    logger.info("updates one at a time, eager: replay is sampled from Reverb, whose batches come from the host")
    return SingleUpdates(step, batches, horizons)


def _way(config: Config) -> str:
    """Says which part runs eagerly, compiled or as a graph, and why."""
    learner = config.learner
    compiled = "" if learner.compile == "off" else f", compiled (learner.compile={learner.compile}) from draw to loss and back"
    if learner.device == "cpu":
        return f"eager: learner.device is cpu, which has no graphs{compiled}"
    seen = "" if learner.diagnostics_period is None else " and those that diagnostics look at"
    return f"one CUDA graph, replayed{compiled}; eager are the first {WARM_UP_UPDATES}{seen}, and what falls between blocks"

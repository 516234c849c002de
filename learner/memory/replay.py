"""The replay memory on the learner's device. It takes segments and returns batches of transitions.

It imports only torch, NumPy, learner.records and pure modules of sbrl.replay: no I/O, no threads, no Reverb. In `sample`,
`gather` and `set_priorities` all shapes follow from the batch size, and nothing synchronizes with the host. So a CUDA graph can
capture them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.memory.priorities import Draw, Priorities
from learner.memory.recency import Recency
from learner.memory.ring import Ring
from learner.memory.storage import Storage, host_tensor
from learner.memory.transitions import Windows
from learner.records import Batch
from sbrl.replay.sampling import slots_for
from sbrl.replay.segments import STREAM_FIELDS, Segment, SegmentShape


class ReplayMemory:
    """Keeps the newest segments. Each valid anchor of a segment is a transition until the segment is evicted.

    The memory evicts whole segments, and each episode has `stack` rows that are not steps. So a full memory holds slightly
    fewer transitions than `capacity`.
    """

    def __init__(
        self,
        shape: SegmentShape,
        capacity: int,
        device: torch.device,
        seed: int,
        prioritized: bool,
        max_priority: float = 1.0,
        recency_horizon: int | None = None,
    ) -> None:
        """
        Args:
            capacity: the number of anchors, rounded up to whole segments.
            device: stores all tensors; `memory_bytes` computes how much memory they need.
            seed: seeds the draws.
            prioritized: True samples in proportion to the priorities that are set, False uniformly.
            max_priority: the largest priority so far. New transitions get it.
            recency_horizon: if given, sampling is by age, see `Recency`. This requires prioritized=False.
        """
        slots = slots_for(shape, capacity)
        self.shape, self.capacity, self._prioritized = shape, slots * shape.steps, prioritized
        self._ring = Ring(slots)
        self._counts: NDArray[np.int64] = np.zeros(slots, np.int64)  # number of transitions in each slot
        self._held: NDArray[np.int64] = np.zeros((slots, len(STREAM_FIELDS)), np.int64)  # `Segment.stream` of each slot
        self._storage = Storage.empty(shape, slots, device)
        self._windows = Windows(self._storage, shape)
        self._recency = None if recency_horizon is None else Recency(slots, shape.steps, device, recency_horizon)
        self._priorities = self._recency or Priorities(slots, shape.steps, device, max_priority)
        self._device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.size = 0  # number of transitions

    @property
    def is_full(self) -> bool:
        """Whether all slots are filled. Then `append` evicts a segment, and `prepend` raises ValueError."""
        return self._ring.is_full

    @property
    def resident_bytes(self) -> int:
        """The bytes of device memory in use."""
        return self._storage.resident_bytes(self.shape, self._ring.filled)

    @property
    def max_priority(self) -> float:
        """The largest priority so far. Waits for the device, so only checkpoints and reports read it."""
        return float(self._priorities.largest.item())

    @property
    def priorities_outdated(self) -> int:
        """Number of priorities that were ignored because their transitions had been evicted. Waits for the device."""
        return int(self._priorities.outdated.item())

    @property
    def priorities_unusable(self) -> int:
        """Number of priorities that were ignored because they were NaN or out of range. Waits for the device."""
        return int(self._priorities.unusable.item())

    def append(self, segment: Segment, valid: NDArray[np.bool_] | None = None) -> int:
        """Stores a segment as the newest and returns its slot. Evicts the oldest segment if the memory is full. O(W) frames.

        Args:
            valid: bool[L], the anchors that have a transition, at least one; None: all steps.

        Raises:
            ValueError: the segment has no transition.
        """
        valid = self._checked(segment, valid)
        slot = self._ring.append()
        if self._recency is not None:
            self._recency.newest(slot)
        return self._fill(slot, segment, valid)

    def prepend(self, segment: Segment) -> int:
        """Stores a segment as the oldest and returns its slot. O(W) frames.

        Raises:
            ValueError: the segment has no transition, or the memory is full.
        """
        valid = self._checked(segment, None)
        return self._fill(self._ring.prepend(), segment, valid)

    def rewrite(self, slot: int, segment: Segment, valid: NDArray[np.bool_], rows: slice = slice(None)) -> None:
        """Writes more of a segment into its slot. O(rows) frames.

        Args:
            slot: the slot that holds the segment.
            valid: bool[L], the anchors that have a transition, including those of before, which keep their priorities.
            rows: the rows that have changed.

        Raises:
            ValueError: the segment has been evicted.
        """
        if not np.array_equal(self._held[slot], segment.stream[0]):
            raise ValueError(f"slot {slot} holds another segment than {segment.first} of {segment.of}, which was evicted")
        self._storage.write(slot, segment, rows)
        self._priorities.grow(slot, self._on_device(valid))
        self._count(slot, valid)

    def sample(self, batch_size: int) -> Draw:
        """Draws B = `batch_size` transitions. O(S + B (log S + L)).

        Raises:
            ValueError: the memory is empty.
        """
        return self.draw(self.uniform(batch_size))

    def uniform(self, batch_size: int) -> Tensor:
        """float64[2, B]: the random numbers for a draw.

        Raises:
            ValueError: the memory is empty.
        """
        if self.size == 0:
            raise ValueError("the memory is empty: there is nothing to sample")
        return torch.rand((2, batch_size), dtype=torch.float64, device=self._device, generator=self.generator)

    def draw(self, uniform: Tensor) -> Draw:
        """Like `sample`, with given random numbers, float64[2, B] in [0, 1)."""
        return self._priorities.draw(uniform)

    def newest(self, count: int) -> Draw:
        """Up to `count` transitions of the newest segments, each once. For diagnostics: it waits for the device."""
        slots: list[int] = []
        found = 0
        for slot in self._ring.newest_first():
            slots.append(slot)
            found += int(self._counts[slot])
            if found >= count:
                break
        at = torch.tensor(slots, dtype=torch.int64, device=self._device)
        row, anchor = (self._priorities.values[at] > 0).nonzero(as_tuple=True)
        return self._each(at[row[:count]], anchor[:count])

    def spread(self, count: int, generator: torch.Generator) -> Draw:
        """`count` transitions, drawn uniformly with the given generator. For diagnostics: it waits for the device."""
        slot, anchor = (self._priorities.values > 0).nonzero(as_tuple=True)
        chosen = torch.randint(len(slot), (count,), generator=generator, device=generator.device).to(slot.device)
        return self._each(slot[chosen], anchor[chosen])

    def gather(self, sample: Draw, n_step: int | Tensor, discount: float | Tensor, jumps: int = 0) -> Batch:
        """The transitions of a sample. None of them may have been evicted. O(B) windows.

        Args:
            n_step: n, from 1 to n_max, as a number or a scalar tensor.
            discount: the discount factor of one step, as a number or a scalar tensor.
            jumps: K, the number of following observations, for self-prediction; 0: none.

        Raises:
            ValueError: n_step or jumps is larger than n_max.
        """
        if max(jumps, 0 if isinstance(n_step, Tensor) else n_step) > self.shape.n_max:
            raise ValueError(f"n_step={n_step}, jumps={jumps}: segments have rows for {self.shape.n_max} steps")
        first = self._first_rows(sample)
        batch = self._windows.n_step(first, sample.probability, n_step, discount)
        return batch._replace(sequence=self._windows.sequence(first, jumps)) if jumps else batch

    def weights_version(self, sample: Draw) -> Tensor:
        """int32[B]: the version of the weights that each transition was collected with."""
        return self._windows.weights_version(self._first_rows(sample))

    def set_priorities(self, sample: Draw, priorities: Tensor) -> None:
        """Sets the priorities, float[B], of a sample. If a transition gets several, the largest one is set. O(B L).

        A priority is ignored and counted if its transition has been evicted, or if it is NaN or out of range. If the memory is
        not prioritized, this does nothing.
        """
        if self._prioritized:
            self._priorities.set(sample, priorities.double())

    def _each(self, slot: Tensor, anchor: Tensor) -> Draw:
        """A sample of these transitions, with the probability of a uniform draw."""
        probability = torch.full(slot.shape, 1 / self.size, dtype=torch.float64, device=slot.device)
        return Draw(slot, anchor, self._priorities.generation[slot], probability)

    def _first_rows(self, sample: Draw) -> Tensor:
        """int64[B]: the first row of each transition's window, counted through all slots."""
        return sample.slot * self.shape.rows + sample.anchor

    def _checked(self, segment: Segment, valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        valid = segment.valid(self.shape) if valid is None else valid
        if not valid.any():
            raise ValueError(f"segment {segment.first} of {segment.of} has no transition: it would take room for nothing")
        return valid

    def _fill(self, slot: int, segment: Segment, valid: NDArray[np.bool_]) -> int:
        self._storage.write(slot, segment)
        self._held[slot] = segment.stream[0]
        self._priorities.fill(slot, self._on_device(valid))
        self._count(slot, valid)
        return slot

    def _count(self, slot: int, valid: NDArray[np.bool_]) -> None:
        count = int(valid.sum())
        self.size += count - int(self._counts[slot])
        self._counts[slot] = count

    def _on_device(self, valid: NDArray[np.bool_]) -> Tensor:
        return host_tensor(valid, self._device).to(self._device, non_blocking=True)

"""The replay memory on the learner's device: segments in, batches of transitions out.

Pure torch; may import torch, NumPy, learner.records and sbrl.replay.segments: no I/O, no threads, no Reverb. `sample`, `gather`
and `set_priorities` have shapes that follow from the batch size alone and read nothing back to the host: a GPU works through
them without waiting, and a graph may capture them.
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
    """Keeps the newest segments. A step is a transition from when it is an anchor of a segment here until that is evicted.

    Eviction is by segment, and rows that are no step take room, stack rows an episode: so a full memory holds some less than
    `capacity` transitions.
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
            capacity: anchors it has room for, rounded up to whole segments.
            device: where it lies; `memory_bytes` says how much it takes there.
            seed: of what is sampled.
            prioritized: sample in proportion to the priorities that are set; uniformly otherwise.
            max_priority: the largest so far, which new transitions are given.
            recency_horizon: sample by age, see `Recency`; takes prioritized=False.
        """
        slots = slots_for(shape, capacity)
        self.shape, self.capacity, self._prioritized = shape, slots * shape.steps, prioritized
        self._ring = Ring(slots)
        self._counts: NDArray[np.int64] = np.zeros(slots, np.int64)  # transitions of each slot
        self._held: NDArray[np.int64] = np.zeros((slots, len(STREAM_FIELDS)), np.int64)  # which segment each slot holds
        self._storage = Storage.empty(shape, slots, device)
        self._windows = Windows(self._storage, shape)
        self._recency = None if recency_horizon is None else Recency(slots, shape.steps, device, recency_horizon)
        self._priorities = self._recency or Priorities(slots, shape.steps, device, max_priority)
        self._device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.size = 0  # transitions

    @property
    def is_full(self) -> bool:
        """Whether `append` evicts, and `prepend` is refused."""
        return self._ring.is_full

    @property
    def resident_bytes(self) -> int:
        """What it takes of its device's memory now."""
        return self._storage.resident_bytes(self.shape, self._ring.filled)

    @property
    def max_priority(self) -> float:
        """The largest so far. Waits for the device: for checkpoints and reports."""
        return float(self._priorities.largest.item())

    @property
    def priorities_outdated(self) -> int:
        """Priorities not set, for their transitions were evicted meanwhile. Waits for the device."""
        return int(self._priorities.outdated.item())

    @property
    def priorities_unusable(self) -> int:
        """Priorities not set, for they were not positive and finite. Waits for the device."""
        return int(self._priorities.unusable.item())

    def append(self, segment: Segment, valid: NDArray[np.bool_] | None = None) -> int:
        """Takes a segment as the newest, evicts the oldest where there is no room, and returns its slot. O(W) frames.

        Args:
            valid: bool[L], the anchors that have a transition, one at least; None: all steps.

        Raises:
            ValueError: the segment has no transition.
        """
        valid = self._checked(segment, valid)
        slot = self._ring.append()
        if self._recency is not None:
            self._recency.newest(slot)
        return self._fill(slot, segment, valid)

    def prepend(self, segment: Segment) -> int:
        """Takes a segment as the oldest, where there is room, and returns its slot. O(W) frames.

        Raises:
            ValueError: the segment has no transition, or the memory is full.
        """
        valid = self._checked(segment, None)
        return self._fill(self._ring.prepend(), segment, valid)

    def rewrite(self, slot: int, segment: Segment, valid: NDArray[np.bool_], rows: slice = slice(None)) -> None:
        """Puts more of the same segment into its slot. O(rows) frames.

        Args:
            slot: where it is.
            valid: bool[L]; those that were valid before are so still, and keep their priorities.
            rows: those that have changed.

        Raises:
            ValueError: it was evicted since.
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
        """The random numbers of a sample, float64[2, B].

        Raises:
            ValueError: the memory is empty.
        """
        if self.size == 0:
            raise ValueError("the memory is empty: there is nothing to sample")
        return torch.rand((2, batch_size), dtype=torch.float64, device=self._device, generator=self.generator)

    def draw(self, uniform: Tensor) -> Draw:
        """As `sample`, with the random numbers given: float64[2, B] in [0, 1)."""
        return self._priorities.draw(uniform)

    def newest(self, count: int) -> Draw:
        """Up to `count` transitions of the newest segments, each once. Waits for the device: for diagnostics."""
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
        """`count` transitions drawn uniformly with a generator of the caller's. Waits for the device: for diagnostics."""
        slot, anchor = (self._priorities.values > 0).nonzero(as_tuple=True)
        chosen = torch.randint(len(slot), (count,), generator=generator, device=generator.device).to(slot.device)
        return self._each(slot[chosen], anchor[chosen])

    def gather(self, sample: Draw, n_step: int | Tensor, discount: float | Tensor, jumps: int = 0) -> Batch:
        """The transitions of a sample, of which nothing was evicted since. O(B) windows.

        Args:
            n_step: n, from 1 to n_max, as a number or a tensor of no dimensions.
            discount: of one step, as a number or a tensor of no dimensions.
            jumps: K, observations that follow, for self-prediction; 0: none.

        Raises:
            ValueError: rows for so many steps are not kept.
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
        """New priorities, float[B], of what was sampled; of several for one transition the largest holds. O(B L).

        Those of what was evicted since, and those that are not positive and finite, are counted and change nothing. Where
        sampling is uniform, none does.
        """
        if self._prioritized:
            self._priorities.set(sample, priorities.double())

    def _each(self, slot: Tensor, anchor: Tensor) -> Draw:
        """These transitions, as if each had been drawn uniformly."""
        probability = torch.full(slot.shape, 1 / self.size, dtype=torch.float64, device=slot.device)
        return Draw(slot, anchor, self._priorities.generation[slot], probability)

    def _first_rows(self, sample: Draw) -> Tensor:
        """int64[B]: where the windows begin, counted through all slots."""
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

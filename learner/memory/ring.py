"""Which slot is filled next. Pure Python, on the host; nothing on the device depends on it."""

from __future__ import annotations

from collections.abc import Iterator


class Ring:
    """Slots on a ring. The filled ones are adjacent and ordered by age. Every call is O(1)."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.filled = 0
        self._oldest = 0

    @property
    def is_full(self) -> bool:
        return self.filled == self.slots

    def newest_first(self) -> Iterator[int]:
        """The filled slots, from the newest segment to the oldest."""
        return ((self._oldest + k) % self.slots for k in reversed(range(self.filled)))

    def append(self) -> int:
        """The slot for a new newest segment: a free one, or the oldest segment's if the ring is full."""
        if self.is_full:
            slot = self._oldest
            self._oldest = (slot + 1) % self.slots
            return slot
        slot = (self._oldest + self.filled) % self.slots
        self.filled += 1
        return slot

    def prepend(self) -> int:
        """The slot for a new oldest segment: a free one.

        Raises:
            ValueError: the ring is full.
        """
        if self.is_full:
            raise ValueError(f"all {self.slots} slots are filled: an older segment would evict a newer one")
        self._oldest = (self._oldest - 1) % self.slots
        self.filled += 1
        return self._oldest

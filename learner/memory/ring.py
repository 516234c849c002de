"""Which slot is filled next. Pure Python: numbers of the host, which decide nothing on the device."""

from __future__ import annotations

from collections.abc import Iterator


class Ring:
    """Slots in the order of age: the filled ones are neighbours, round a ring. Every call is O(1)."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.filled = 0
        self._oldest = 0

    @property
    def is_full(self) -> bool:
        return self.filled == self.slots

    def newest_first(self) -> Iterator[int]:
        """The filled slots, the newest segment's first."""
        return ((self._oldest + k) % self.slots for k in reversed(range(self.filled)))

    def append(self) -> int:
        """The slot of a new newest segment: a free one, or where there is none the oldest segment's."""
        if self.is_full:
            slot = self._oldest
            self._oldest = (slot + 1) % self.slots
            return slot
        slot = (self._oldest + self.filled) % self.slots
        self.filled += 1
        return slot

    def prepend(self) -> int:
        """The slot of a new oldest segment, a free one.

        Raises:
            ValueError: there is none.
        """
        if self.is_full:
            raise ValueError(f"all {self.slots} slots are filled: an older segment would evict a newer one")
        self._oldest = (self._oldest - 1) % self.slots
        self.filled += 1
        return self._oldest

"""Which steps of each environment a learner has received, and which not: pure bookkeeping by numbers.

The steps of each environment of an incarnation are numbered from 0, through all its streams. Each environment has a mark, the
number after the highest received, and holes: the numbers below the mark that have not come. At any moment, for each environment
and so for all of them:

    mark = received + lost - recovered           written = mark + steps still to come

- A step whose number was received before is a duplicate: a resend, or from a shard that was restored from its checkpoint.
- A step beyond the mark leaves a hole if it skips numbers. The skipped steps are counted as lost at once, each with its shard.
- A step that fills a hole later, from a log, a restored queue or a slower shard, is received and recovered.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any, NamedTuple

from sbrl.replay.segments import Stream

MAX_WRITERS = 65_536  # writers (environments of an incarnation) whose numbers are kept
MAX_HOLES = 256  # per writer


WITH_ACTORS = -1  # in place of a shard: steps that were lost with their actor


def _whole(*numbers: Any) -> tuple[int, ...]:
    """The same numbers. Raises ValueError if one of them is not a valid count or index."""
    for number in numbers:
        if type(number) is not int or not 0 <= number < 2**53:
            raise ValueError(f"{number!r} is no count")
    return numbers


def _by_incarnation(entries: Any) -> dict[int, int]:
    """Raises ValueError as `_whole`."""
    return {incarnation: steps for entry in entries for incarnation, steps in [_whole(*entry)]}


class Counts(NamedTuple):
    """Steps of one shard."""

    received: int = 0
    duplicates: int = 0
    lost: int = 0
    recovered: int = 0


class _Writer(NamedTuple):
    """One environment of one incarnation of an actor."""

    actor: int
    env: int
    incarnation: int


class _Hole(NamedTuple):
    """Missing numbers first to end - 1. They were sent to `shard`."""

    first: int
    end: int
    shard: int


class _Received:
    """The numbers of one writer."""

    def __init__(self, mark: int = 0, holes: list[_Hole] | None = None) -> None:
        self.mark, self.holes = mark, holes or []  # in ascending order


class Receipts:
    """The accounting over all writers. Its size is bounded, for runs of weeks:

    - At most `max_holes` holes of a writer are remembered. The lowest are forgotten first, and stay lost.
    - At most `max_writers` writers are remembered. Only writers whose environment has a newer incarnation are forgotten, the
      longest silent first. Steps that still come from a forgotten writer, or an earlier incarnation, count as duplicates.
    """

    def __init__(self, max_writers: int = MAX_WRITERS, max_holes: int = MAX_HOLES) -> None:
        self._max_writers, self._max_holes = max_writers, max_holes
        self._writers: OrderedDict[_Writer, _Received] = OrderedDict()  # the longest silent first
        self._newest: dict[tuple[int, int], int] = {}  # (actor, env): the newest incarnation
        self._forgotten: dict[tuple[int, int], int] = {}  # (actor, env): the newest forgotten incarnation
        self._counts: dict[int, Counts] = {}
        self._marks: dict[int, int] = {}  # by incarnation: the sum of its environments' marks
        self._ended: dict[int, int] = {}  # by incarnation of a lost actor: its steps beyond the marks, counted as lost

    def of_shard(self, shard: int) -> Counts:
        """The counts of one shard, or with WITH_ACTORS those of steps that were lost with their actors."""
        return self._counts.get(shard, Counts())

    def settle(self, incarnation: int, steps: int) -> None:
        """An actor is gone: its steps beyond the marks are lost with it, unless they come after all. May be repeated.

        Args:
            steps: number of steps that the actor had collected, over all its environments.
        """
        missing = steps - self._marks.get(incarnation, 0) - self._ended.get(incarnation, 0)
        if missing > 0:
            self._ended[incarnation] = self._ended.get(incarnation, 0) + missing
            self._add(WITH_ACTORS, lost=missing)

    @property
    def counts(self) -> dict[int, Counts]:
        """Counts by shard."""
        return dict(self._counts)

    @property
    def total(self) -> Counts:
        """Counts over all shards."""
        return Counts(*(sum(column) for column in zip(*self._counts.values(), strict=True))) if self._counts else Counts()

    def take(self, shard: int, stream: Stream, first: int, steps: int, from_log: bool = False) -> int:
        """Counts the steps `first` to `first + steps - 1` of a stream. Returns how many are new, 0 if all are duplicates.

        Args:
            shard: the shard that served them.
            from_log: whether they are from its log. Steps from the log that were received before do not count as duplicates.

        Raises:
            ValueError: these numbers are impossible for that stream; nothing is counted.
        """
        if not 0 <= stream.start <= first or steps < 0:
            raise ValueError(f"steps {first} to {first + steps - 1} cannot be of a stream that starts at {stream.start}")
        writer = _Writer(stream.actor, stream.env, stream.incarnation)
        if stream.incarnation <= self._forgotten.get(writer[:2], -1):
            self._add(shard, duplicates=0 if from_log else steps)
            return 0
        received = self._hear_of(writer)
        if not steps:
            return 0
        end, mark = first + steps, received.mark
        if first > mark:
            tail = min(max(mark, stream.start), first)  # missing steps before it belong to earlier streams
            self._lose(received, mark, tail, stream.previous_shard if stream.previous_shard >= 0 else shard)
            self._lose(received, tail, first, shard)
        new = max(0, end - max(first, mark)) + self._recover(received, first, min(end, mark))
        received.mark = max(mark, end)
        self._advance(stream.incarnation, received.mark - mark)
        self._add(shard, received=new, duplicates=0 if from_log else steps - new)
        return new

    def state(self) -> dict[str, Any]:
        """The whole state as plain data, for JSON."""
        return {
            "writers": [
                [*writer, received.mark, [list(hole) for hole in received.holes]] for writer, received in self._writers.items()
            ],
            "forgotten": [[*who, incarnation] for who, incarnation in self._forgotten.items()],
            "marks": list(self._marks.items()),
            "ended": list(self._ended.items()),
            "counts": {str(shard): list(counts) for shard, counts in self._counts.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], max_writers: int = MAX_WRITERS, max_holes: int = MAX_HOLES) -> Receipts:
        """The receipts of a saved `state`. Raises ValueError if the state is invalid."""
        receipts = cls(max_writers, max_holes)
        try:
            for actor, env, incarnation, mark, holes in state["writers"]:
                writer = _Writer(*_whole(actor, env, incarnation))
                receipts._hear_of(writer)
                receipts._writers[writer] = _Received(_whole(mark)[0], [_Hole(*_whole(*hole)) for hole in holes])
            receipts._forgotten |= {
                (actor, env): incarnation for actor, env, incarnation in (_whole(*entry) for entry in state["forgotten"])
            }
            receipts._marks = _by_incarnation(state["marks"])
            receipts._ended = _by_incarnation(state["ended"])
            receipts._counts = {int(shard): Counts(*_whole(*counts)) for shard, counts in state["counts"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"receipts cannot be read: {type(error).__name__}: {error}") from None
        receipts._check()
        return receipts

    def _check(self) -> None:
        """Raises ValueError if the counts do not add up: every missing step must have been counted as lost."""
        missing = Counter({WITH_ACTORS: sum(self._ended.values())})
        for received in self._writers.values():
            end = 0
            for hole in received.holes:
                if not end <= hole.first < hole.end <= received.mark:
                    raise ValueError(f"receipts have a hole of steps {hole.first} to {hole.end - 1} out of place")
                missing[hole.shard] += hole.end - hole.first
                end = hole.end
        for shard in missing.keys() | self._counts.keys():
            counts = self.of_shard(shard)
            if missing[shard] > counts.lost - counts.recovered:
                raise ValueError(f"receipts miss {missing[shard]} steps of shard {shard}, which has {counts}")

    def _advance(self, incarnation: int, steps: int) -> None:
        """Adds `steps` to an incarnation's marks. Steps that were counted as lost with their actor count as recovered."""
        self._marks[incarnation] = self._marks.get(incarnation, 0) + steps
        known_after_all = min(steps, self._ended.get(incarnation, 0))
        if known_after_all:
            self._ended[incarnation] -= known_after_all
            self._add(WITH_ACTORS, recovered=known_after_all)

    def _hear_of(self, writer: _Writer) -> _Received:
        """The writer's numbers, marked as the most recently used. A new writer can push out an old one."""
        received = self._writers.get(writer)
        if received is not None:
            self._writers.move_to_end(writer)
            return received
        received = self._writers[writer] = _Received()
        self._newest[writer[:2]] = max(writer.incarnation, self._newest.get(writer[:2], writer.incarnation))
        if len(self._writers) > self._max_writers:
            old = (one for one in self._writers if one.incarnation < self._newest[one[:2]] and one != writer)
            if (oldest := next(old, None)) is not None:
                self._forget(oldest)
        return received

    def _forget(self, writer: _Writer) -> None:
        del self._writers[writer]
        who = writer[:2]
        self._forgotten[who] = max(writer.incarnation, self._forgotten.get(who, -1))

    def _lose(self, received: _Received, first: int, end: int, shard: int) -> None:
        if first < end:
            received.holes.append(_Hole(first, end, shard))
            del received.holes[: -self._max_holes]
            self._add(shard, lost=end - first)

    def _recover(self, received: _Received, first: int, end: int) -> int:
        """Fills the holes between two numbers. Returns the number of steps in them."""
        left: list[_Hole] = []
        filled = 0
        for hole in received.holes:
            low, high = max(hole.first, first), min(hole.end, end)
            if low >= high:
                left.append(hole)
                continue
            filled += high - low
            self._add(hole.shard, recovered=high - low)
            left += [part for part in (hole._replace(end=low), hole._replace(first=high)) if part.first < part.end]
        received.holes = left[-self._max_holes :]
        return filled

    def _add(self, shard: int, received: int = 0, duplicates: int = 0, lost: int = 0, recovered: int = 0) -> None:
        before = self._counts.get(shard, Counts())
        added = (received, duplicates, lost, recovered)
        self._counts[shard] = Counts(*(count + more for count, more in zip(before, added, strict=True)))

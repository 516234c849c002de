"""A run's episodes.csv and evaluations.csv: one row per record, one column per field of the message."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from google.protobuf.message import Message

from sbrl.errors import RunError
from sbrl.storage.atomic import replacing
from sbrl.v1.episodes_pb2 import Episode, Evaluation


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """Writes training episodes in the given order, all or nothing.

    Raises:
        RunError: the file system refuses. Exceptions from `episodes` pass through. An existing file stays as it is.
    """
    _write(path, Episode, episodes)


def write_evaluations(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Writes evaluations in the given order, all or nothing. Raises as `write_episodes` does."""
    _write(path, Evaluation, evaluations)


class GrowingEpisodes:
    """A table of training episodes that follows the log: it only reads and appends new episodes.

    The whole table is written again, all or nothing, if the log does not continue from the table's last row, because it was
    restored from a backup or lost its newest rows. Each new process does this, too, because it cannot know what a crash left of
    the file.
    """

    def __init__(self, path: Path, read: Callable[[int], Iterator[tuple[int, list[Episode]]]]) -> None:
        """Args: read: yields pages of the log after a row, each with its last row, like `LogClient.read_episodes`."""
        self._path, self._read = path, read
        self._size = 0  # bytes that this process wrote; 0: write again
        self._row = 0  # the log's row of the table's last episode
        self._last: Episode | None = None

    def follow(self) -> None:
        """Brings the table up to date.

        Raises:
            RunError: the file system refuses. Exceptions from reading the log pass through. The table's rows stay complete in
                either case.
        """
        if self._is_as_left() and self._append():
            return
        self._size = 0
        write_episodes(self._path, self._all())
        with contextlib.suppress(OSError):  # already gone: write it again the next time
            self._size = self._path.stat().st_size

    def _is_as_left(self) -> bool:
        try:
            return self._size > 0 and self._path.stat().st_size == self._size
        except OSError:
            return False

    def _all(self) -> Iterator[Episode]:
        self._row, self._last = 0, None
        for row, episodes in self._read(0):
            self._row, self._last = row, episodes[-1]
            yield from episodes

    def _append(self) -> bool:
        """Returns False, and does nothing, if the log does not continue from the table's last row."""
        if self._last is None:
            pages = self._read(0)
        else:
            # Read the last episode again: a different one, or none, shows that the log has gone back.
            pages = self._read(self._row - 1)
            row, episodes = next(pages, (0, []))
            if not episodes or episodes[0] != self._last:
                return False
            pages = chain([(row, episodes[1:])], pages)
        try:
            with self._path.open("ab") as file:
                for row, episodes in pages:
                    if episodes:
                        rows = _rows(episodes).encode()
                        file.write(rows)
                        file.flush()
                        self._size, self._row, self._last = self._size + len(rows), row, episodes[-1]
        except OSError as error:
            with contextlib.suppress(OSError):  # if a partial row stays, the file's size differs, and it is written again
                os.truncate(self._path, self._size)
            raise RunError(f"cannot write {self._path}: {error.strerror}") from None
        return True


def read_episodes(path: Path) -> list[Episode]:
    """The episodes that `write_episodes` wrote, with exactly the same numbers.

    Raises:
        RunError: the file cannot be read, or is not such a table; the message names the line.
    """
    return [Episode(**row) for row in _read(path, Episode)]


def read_evaluations(path: Path) -> list[Evaluation]:
    """The evaluations that `write_evaluations` wrote. Raises as `read_episodes` does."""
    return [Evaluation(**row) for row in _read(path, Evaluation)]


def row_of(message: Message) -> dict[str, Any]:
    """A record's fields by name, zeros included: the columns of its table."""
    return {name: getattr(message, name) for name in _columns(type(message))}


def _columns(kind: type[Message]) -> Mapping[str, type]:
    """The fields of a message of numbers, in the order of their declaration, each with its Python type."""
    return {field.name: type(field.default_value) for field in kind.DESCRIPTOR.fields}


def _write(path: Path, kind: type[Message], messages: Iterable[Message]) -> None:
    try:
        with replacing(path, text=True) as file:
            csv.writer(file, lineterminator="\n").writerow(_columns(kind))
            _write_rows(file, messages)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


def _rows(messages: Iterable[Message]) -> str:
    text = io.StringIO()
    _write_rows(text, messages)
    return text.getvalue()


def _write_rows(file: IO[str], messages: Iterable[Message]) -> None:
    # Truth values as 0 and 1, so that every cell is a number.
    rows = ([int(v) if isinstance(v, bool) else v for v in row_of(m).values()] for m in messages)
    csv.writer(file, lineterminator="\n").writerows(rows)


def _read(path: Path, kind: type[Message]) -> list[dict[str, Any]]:
    expected = list(_columns(kind))
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            # Newer fields of the message, all after `time`, are zero, as in messages.
            if header != expected[: len(header)] or "time" not in header:
                raise RunError(f"{path} has the columns {','.join(header)}; expected {','.join(expected)}")
            columns = {name: _columns(kind)[name] for name in header}
            for cells in reader:
                try:
                    row = {
                        name: columns[name](float(cell) if columns[name] is float else int(cell))
                        for name, cell in zip(columns, cells, strict=True)
                    }
                except ValueError:
                    raise RunError(f"{path}, line {reader.line_num}: not a row of {len(columns)} numbers") from None
                wrong = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
                if wrong:
                    raise RunError(f"{path}, line {reader.line_num}: {wrong[0]} is {row[wrong[0]]}, not a finite number")
                rows.append(row)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from None
    return rows

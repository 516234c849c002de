"""A run's episodes.csv and evaluations.csv: one row a record, the columns named as the fields of sbrl.v1's messages."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from sbrl.errors import RunError
from sbrl.v1.fleet_pb2 import Episode, Evaluation


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """Writes training episodes in the order given, all or nothing.

    Raises:
        RunError: the file system refuses; whatever `episodes` raises passes through. A file that was there stays as it is.
    """
    _write(path, Episode, episodes)


def write_evaluations(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Writes evaluations in the order given, all or nothing. Raises as `write_episodes` does."""
    _write(path, Evaluation, evaluations)


def read_episodes(path: Path) -> list[Episode]:
    """What `write_episodes` wrote, every number exactly.

    Raises:
        RunError: the file cannot be read, or is no such table; names the line.
    """
    return [Episode(**row) for row in _read(path, Episode)]


def read_evaluations(path: Path) -> list[Evaluation]:
    """What `write_evaluations` wrote. Raises as `read_episodes` does."""
    return [Evaluation(**row) for row in _read(path, Evaluation)]


def row_of(message: Message) -> dict[str, Any]:
    """A record's fields by name, zeros included: the columns of its table."""
    return {name: getattr(message, name) for name in _columns(type(message))}


def _columns(kind: type[Message]) -> Mapping[str, type]:
    """The fields of a message of numbers, in the order of their declaration, each with its Python type."""
    return {field.name: type(field.default_value) for field in kind.DESCRIPTOR.fields}


def _write(path: Path, kind: type[Message], messages: Iterable[Message]) -> None:
    unfinished = path.with_suffix(".tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_columns(kind))
            # Truth values as 0 and 1, so that every cell is a number.
            writer.writerows([int(v) if isinstance(v, bool) else v for v in row_of(m).values()] for m in messages)
        os.replace(unfinished, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path: Path, kind: type[Message]) -> list[dict[str, Any]]:
    columns = _columns(kind)
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if header != list(columns):
                raise RunError(f"{path} has the columns {','.join(header)}; expected {','.join(columns)}")
            for cells in reader:
                try:
                    rows.append(
                        {
                            name: columns[name](float(cell) if columns[name] is float else int(cell))
                            for name, cell in zip(columns, cells, strict=True)
                        }
                    )
                except ValueError:
                    raise RunError(f"{path}, line {reader.line_num}: not a row of {len(columns)} numbers") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from None
    return rows

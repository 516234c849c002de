"""Exchange of arrays between tests and the oracle process: over a pipe, a length and then an .npz archive."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_LENGTH = struct.Struct("<Q")


def send(stream: BinaryIO, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name; numbers and strings become arrays without dimensions."""
    archive = io.BytesIO()
    np.savez(archive, **{name: np.asarray(array) for name, array in arrays.items()})
    stream.write(_LENGTH.pack(archive.tell()) + archive.getvalue())
    stream.flush()


def receive(stream: BinaryIO) -> Arrays | None:
    """The arrays sent next, or None if the other side is gone."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    with np.load(io.BytesIO(stream.read(length)), allow_pickle=False) as archive:
        return dict(archive)

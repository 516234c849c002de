"""Standard output and error that may go away: a pipe's reader ends, a disk fills, a terminal closes.

A run continues without them. A command that exists only for its output ends: silently if its reader has gone, as other programs
do, and with a message if the output could not be written.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from sbrl.errors import RunError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

EXIT_NO_READER = 141  # as a shell reports a program that SIGPIPE has ended
# How long a run waits for a reader that takes nothing (a pager, a terminal after Ctrl-S): it has other work to do.
READER_SECONDS = 0.2
PIECE_BYTES = 4096  # PIPE_BUF: a pipe that is ready for writing takes this much at once


def secure_output() -> None:
    """Makes standard output and error fail as this module describes. Call this once, before anything else.

    A stream that was closed at the start becomes /dev/null, so that the next opened file does not take its descriptor.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the descriptor, also across exec
    sys.stdout = _secured(sys.stdout, 1, lasting=False)
    sys.stderr = _secured(sys.stderr, 2, lasting=True)  # a message that nobody can read changes nothing


def outlive_output() -> None:
    """From now on, output that standard output does not take within a moment is silently dropped."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Output):
        raw.lasting = True


def _secured(stream: TextIO | None, descriptor: int, lasting: bool) -> TextIO:
    if stream is None:  # closed at the start; its descriptor may belong to another file by now
        return open(os.devnull, "w", encoding="utf-8")
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, lasting)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=lasting or os.isatty(descriptor),
    )


class _Output(io.FileIO):
    def __init__(self, descriptor: int, lasting: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.lasting = lasting
        self._patience = READER_SECONDS

    def write(self, data: ReadableBuffer, /) -> int:
        piece = memoryview(data)[:PIECE_BYTES]
        try:
            if self.lasting and not self._is_taken():
                return len(piece)
            written = super().write(piece)
        except OSError as error:
            if self.lasting:
                return len(piece)
            if error.errno == errno.EPIPE:
                raise SystemExit(EXIT_NO_READER) from None
            raise RunError(f"cannot write to standard output: {error.strerror}") from None
        if written is None and not self.lasting:  # another process has made it non-blocking
            select.select([], [self], [])
        return len(piece) if written is None and self.lasting else written or 0

    def _is_taken(self) -> bool:
        """Whether a write would not block. Waits once for a reader, and not again until it takes something."""
        ready = bool(select.select([], [self], [], self._patience)[1])
        self._patience = READER_SECONDS if ready else 0.0
        return ready

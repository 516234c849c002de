"""Answers requests that cannot be carried out with gRPC statuses instead of tracebacks."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

_log = logging.getLogger(__name__)


class Refused(Exception):
    """The request is answered with a status and a message for its sender."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


def invalid(message: str) -> Refused:
    """The refusal of a malformed request."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def stale(term: int) -> Refused:
    """The refusal of a learner that has been replaced."""
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, f"term {term} is not the newest: another learner has taken over")


# Ordinary events: a lease has ended, no weights are there yet, or a second learner waits for its turn and asks every second.
_ORDINARY = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS})


@contextmanager
def statuses(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the status of a refusal, or with UNAVAILABLE (try again) if the disk cannot be written."""
    try:
        yield
    except Refused as refusal:
        level = logging.DEBUG if refusal.status in _ORDINARY else logging.WARNING
        _log.log(level, "refused with %s: %s", refusal.status.name, refusal)
        context.abort(refusal.status, str(refusal))
    except (OSError, sqlite3.OperationalError) as error:
        _log.error("cannot keep the run's state: %s", error)
        context.abort(grpc.StatusCode.UNAVAILABLE, f"the coordinator cannot keep the run's state: {error}")

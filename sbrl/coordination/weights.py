"""Publishing and fetching network weights: versioned safetensors bytes. The coordinator keeps and fences them."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import grpc

from sbrl.errors import RunError
from sbrl.rpc import channels
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.v1 import weights_pb2, weights_pb2_grpc

CHUNK_BYTES = 1 << 20


class StaleTermError(RunError):
    """A newer learner has taken over; this one must stop."""


class FetchedWeights(NamedTuple):
    """One version of the weights, with a verified checksum."""

    version: int
    updates: int  # gradient updates at the time of publication
    data: bytes  # safetensors
    published_time: float  # seconds of this process's monotonic clock


class WeightsClient:
    """The coordinator's weights service. Every call has a deadline."""

    def __init__(self, address: str) -> None:
        """Args: address: host:port of the coordinator; nothing connects before the first call."""
        self._address = address
        self._channel = channels.open_channel(address)
        self._stub = weights_pb2_grpc.WeightsStub(self._channel)

    def acquire_term(self, holder: str, timeout: float = 30.0) -> tuple[int, int]:
        """Makes the caller the learner and returns (term, newest version or 0). Waits for an absent coordinator.

        Raises:
            CoordinatorUnavailable: no answer within `timeout` seconds.
        """
        request = weights_pb2.AcquireTermRequest(holder=holder)
        with channels.coordinator_errors(self._address):
            response = self._stub.AcquireTerm(request, timeout=timeout, wait_for_ready=True)
        return response.term, response.newest_version

    def publish(self, data: bytes, term: int, updates: int, timeout: float = 30.0) -> int:
        """Publishes safetensors bytes and returns their version once they are durable.

        Raises:
            StaleTermError: another learner has acquired a newer term.
            CoordinatorUnavailable: no answer in time. The weights may or may not be published; publishing again is safe.
            RunError: the coordinator refused the bytes.
        """
        header = weights_pb2.WeightsHeader(term=term, updates=updates, size_bytes=len(data), crc32=zlib.crc32(data))
        with channels.coordinator_errors(self._address):
            try:
                return int(self._stub.Publish(_publish_requests(header, data), timeout=timeout).version)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    raise StaleTermError(f"weights refused: {error.details()}") from None
                raise

    def fetch(self, newer_than_version: int = 0, timeout: float = 30.0) -> FetchedWeights | None:
        """The newest weights, or None if there are none newer than `newer_than_version`.

        Raises:
            CoordinatorUnavailable: no complete answer in time, or the bytes arrived damaged.
        """
        request = weights_pb2.FetchRequest(newer_than_version=newer_than_version)
        header, data, published_time = weights_pb2.WeightsHeader(), bytearray(), 0.0
        with channels.coordinator_errors(self._address):
            try:
                for response in self._stub.Fetch(request, timeout=timeout):
                    if response.HasField("header"):
                        header = response.header
                        published_time = time.monotonic() - header.age_seconds
                    else:
                        data += response.chunk
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                raise
        if header.size_bytes == 0:
            return None
        if len(data) != header.size_bytes or zlib.crc32(data) != header.crc32:
            raise CoordinatorUnavailable(
                f"weights version {header.version} from {self._address} arrived damaged (checksum differs)"
            )
        return FetchedWeights(header.version, header.updates, bytes(data), published_time)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


def chunks(data: bytes) -> Iterator[bytes]:
    """Cuts bytes into chunks of CHUNK_BYTES; the last one can be shorter."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _publish_requests(header: weights_pb2.WeightsHeader, data: bytes) -> Iterator[weights_pb2.PublishRequest]:
    yield weights_pb2.PublishRequest(header=header)
    for chunk in chunks(data):
        yield weights_pb2.PublishRequest(chunk=chunk)

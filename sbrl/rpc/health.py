"""The standard gRPC health service (grpc.health.v1). It answers SERVING only once a role does its work."""

from __future__ import annotations

import threading

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials

LIVENESS = "liveness"  # for this service, a process answers SERVING as long as it exists, whatever it waits for
_THREADS = 4
OPEN = Credentials()  # probes have no token, and Kubernetes' probes speak no TLS


class HealthServer:
    """Answers NOT_SERVING until `set_serving`, and from `drain` on."""

    def __init__(self) -> None:
        # Non-blocking: a Watch holds no thread, so watchers cannot delay the answer to a probe.
        self._servicer = health.HealthServicer(experimental_non_blocking=True)
        self._server = channels.make_server(_THREADS, "health", OPEN)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        self._servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)  # "" is the role's work
        self._servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        self._lock = threading.Lock()  # the signal thread calls `drain`
        self._draining = False

    def start(self, host: str, port: int) -> int:
        """Listens on host:port (0: any free one) and returns the port.

        Raises:
            RunError: the port is taken.
        """
        bound = channels.bind(self._server, host, port, "health service", OPEN)
        self._server.start()
        return bound

    def set_serving(self) -> None:
        """Answers SERVING from now on. No effect after `drain`."""
        with self._lock:
            if not self._draining:
                self._servicer.set("", health_pb2.HealthCheckResponse.SERVING)

    def drain(self) -> None:
        """Answers NOT_SERVING from now on, even after `set_serving`."""
        with self._lock:
            self._draining = True
            self._servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    def stop(self) -> None:
        """Closes the port."""
        self._server.stop(grace=0).wait()


def is_serving(address: str, timeout: float) -> bool:
    """Whether the health service at `address` answers SERVING within `timeout` seconds."""
    with channels.open_channel(address, OPEN) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

"""The standard gRPC health service (grpc.health.v1): SERVING is a fact, told once a role does its work."""

from __future__ import annotations

import threading

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials

LIVENESS = "liveness"  # asked for this service, a process answers SERVING for as long as it is there, whatever it waits for
_THREADS = 4
OPEN = Credentials()  # probes bring no token, and Kubernetes' speak no TLS


class HealthServer:
    """Answers NOT_SERVING until `set_serving`, and from `drain` on."""

    def __init__(self) -> None:
        # Non-blocking: a Watch holds no thread, so that watchers cannot keep a probe from its answer.
        self._servicer = health.HealthServicer(experimental_non_blocking=True)
        self._server = channels.make_server(_THREADS, "health", OPEN)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        self._servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)  # "" is the role's work
        self._servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        self._lock = threading.Lock()  # `drain` comes from the thread of signals
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
        """Answers SERVING from now on; without effect after `drain`."""
        with self._lock:
            if not self._draining:
                self._servicer.set("", health_pb2.HealthCheckResponse.SERVING)

    def drain(self) -> None:
        """Answers NOT_SERVING from now on, whatever `set_serving` says."""
        with self._lock:
            self._draining = True
            self._servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    def stop(self) -> None:
        """Closes the port."""
        self._server.stop(grace=0).wait()


def is_serving(address: str, timeout: float) -> bool:
    """Whether the process with its health service at `address` says SERVING within `timeout` seconds."""
    with channels.open_channel(address, OPEN) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

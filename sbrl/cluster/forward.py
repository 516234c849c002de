"""Forwards a Unix socket on this machine to a pod's port, like `kubectl port-forward`."""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbrl.cluster import client
from sbrl.cluster.kube import Cluster, api_errors
from sbrl.errors import RunError

CHUNK_BYTES = 1 << 16
CLOSE_SECONDS = 5.0

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def forwarded(cluster: Cluster, pod: str, port: int) -> Iterator[str]:
    """Yields a gRPC address that leads to `port` of a pod.

    It is a Unix socket in a folder of this user and not a port, so nobody else on this machine can use it.

    Raises:
        RunError: the first connection could not be made, for example because a right is missing.
    """
    _drain(_connect(cluster, pod, port).socket(port))
    with tempfile.TemporaryDirectory(prefix="sbrl-") as folder, socket.socket(socket.AF_UNIX) as server:
        path = Path(folder) / "forward"
        server.bind(str(path))
        server.listen()
        threading.Thread(target=_serve, args=(server, cluster, pod, port), name="forward", daemon=True).start()
        try:
            yield f"unix:{path}"
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for connections


def _serve(server: socket.socket, cluster: Cluster, pod: str, port: int) -> None:
    while True:
        try:
            local, _ = server.accept()
        except OSError:
            return
        try:
            forward = _connect(cluster, pod, port)
        except RunError as error:
            _log.warning("%s", error)
            local.close()
            continue
        threading.Thread(target=_carry, args=(local, forward.socket(port)), name="forward", daemon=True).start()


def _carry(local: socket.socket, remote: Any) -> None:
    """Copies bytes in both directions until both ends have closed."""
    there = threading.Thread(target=_copy, args=(local, remote), name="forward", daemon=True)
    there.start()
    _copy(remote, local)
    _drain(remote)
    with contextlib.suppress(OSError):
        local.shutdown(socket.SHUT_RDWR)  # wakes the other thread
    there.join()
    local.close()


def _copy(source: Any, sink: Any) -> None:
    """Copies bytes in one direction until either end has closed, then tells the sink that no more will come."""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _drain(remote: Any) -> None:
    """Closes a forwarded connection. Reads it to its end: unread bytes would end the client's thread with a traceback."""
    with contextlib.suppress(OSError):
        remote.settimeout(CLOSE_SECONDS)
        remote.shutdown(socket.SHUT_WR)
        while remote.recv(CHUNK_BYTES):
            pass
    remote.close()


def _connect(cluster: Cluster, pod: str, port: int) -> Any:
    """One forwarded connection (kubernetes.stream.ws_client.PortForward)."""
    # The call temporarily replaces a method of its client. It gets a separate client, because others use the cluster's.
    core = client.CoreV1Api(client.ApiClient(cluster.api.configuration))
    with api_errors("create", f"pods/portforward {pod}", cluster.namespace):
        try:
            return client.portforward(core.connect_get_namespaced_pod_portforward, pod, cluster.namespace, ports=str(port))
        except AttributeError as error:
            # The client fails in its own error handling for a refused WebSocket, which has no body to decode.
            if isinstance(error.__context__, client.ApiException):
                raise error.__context__ from None
            raise

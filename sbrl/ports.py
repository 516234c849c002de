"""Which TCP ports are free on this machine."""

from __future__ import annotations

import contextlib
import socket

from sbrl.errors import RunError


def check_port_free(host: str, port: int) -> None:
    """Finds out whether a server could listen on host:port.

    Raises:
        RunError: something else listens there, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(
                f"port {port} on {host} cannot be used ({error.strerror}): stop what holds it, or choose another port"
            ) from None


def free_ports(host: str, count: int) -> list[int]:
    """`count` different ports that were free a moment ago."""
    with contextlib.ExitStack() as closing:
        probes = [closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]

"""Which TCP ports are free on this machine."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from sbrl.errors import RunError

LOWEST_PORT = 10_240  # below are the ports that well-known services use


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
    """`count` different ports that were free a moment ago, below those the kernel gives to outgoing connections and to port 0.

    One from that range could be gone before its server starts: the roles of a run open many connections at once.

    Raises:
        RunError: there are not so many.
    """
    found: list[int] = []
    candidates = range(LOWEST_PORT, _first_ephemeral_port())
    if len(candidates) < 64 * count:  # some machines give nearly all ports to outgoing connections
        candidates = range(LOWEST_PORT, 65_536)
    for port in random.SystemRandom().sample(candidates, k=64 * count):
        with contextlib.suppress(RunError):  # this one is taken: the next may not be
            check_port_free(host, port)
            found.append(port)
        if len(found) == count:
            return found
    raise RunError(f"no {count} free ports from {LOWEST_PORT} on: give addresses in the config's network section")


def _first_ephemeral_port() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])

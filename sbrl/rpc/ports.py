"""Which TCP ports are free on this machine."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Any

from sbrl.errors import RunError, UsageError

LOWEST_PORT = 10_240  # well-known services use the ports below


def host_port(host: str, port: int) -> str:
    """host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of host:port."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The address family of `host`, IPv4 or IPv6, and the address that a socket of that family binds.

    Raises:
        OSError: it is neither an address nor a name of one.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError:  # a name that no resolver accepts
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return family, place


def check_host(host: str) -> None:
    """Checks that a server could listen on an address at all.

    Raises:
        UsageError: it is not an address of this machine.
    """
    try:
        family, place = resolve(host, 0)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(place)
    except OSError as error:
        raise UsageError(
            f"network.bind_host={host!r} is no address that this machine can listen on ({error.strerror}): give one that it "
            f"has, such as 127.0.0.1, 0.0.0.0 for all of IPv4, or :: for all of IPv6 and IPv4"
        ) from None


def check_port_free(host: str, port: int) -> None:
    """Checks that a server could listen on host:port.

    Raises:
        RunError: another process listens there, or the address is not this machine's.
    """
    try:
        family, place = resolve(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise RunError(
            f"port {port} on {host} cannot be used ({error.strerror}): stop what holds it, or choose another port"
        ) from None


def free_ports(host: str, count: int) -> list[int]:
    """`count` different ports that were free a moment ago.

    They lie below the range that the kernel uses for outgoing connections and for port 0. A port from that range could be taken
    before its server starts, because the roles of a run open many connections at once.

    Raises:
        RunError: there are not that many free ports.
    """
    found: list[int] = []
    candidates = range(LOWEST_PORT, _first_ephemeral_port())
    if len(candidates) < 64 * count:  # some machines give nearly all ports to outgoing connections
        candidates = range(LOWEST_PORT, 65_536)
    for port in random.SystemRandom().sample(candidates, k=64 * count):
        with contextlib.suppress(RunError):  # this one is taken; try the next
            check_port_free(host, port)
            found.append(port)
        if len(found) == count:
            return found
    raise RunError(f"no {count} free ports from {LOWEST_PORT} on: give addresses in the config's network section")


def _first_ephemeral_port() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])

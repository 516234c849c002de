"""gRPC channels that reconnect quickly, servers that notice a taken port, errors with a message.

Tokens and TLS come from the environment of the process (`sbrl.rpc.credentials`).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

from sbrl.errors import RunError
from sbrl.rpc.credentials import Credentials, TokenCheck, TokenSender
from sbrl.rpc.ports import check_host, host_port, resolve

# By default gRPC measures the bandwidth with a ping for every message, which adds a sixth to a heartbeat. Without it the
# window is fixed: one chunk of weights.
_WINDOW_OPTIONS = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 20))
# By default gRPC waits up to two minutes between attempts: too long for a coordinator that restarts in one second.
CHANNEL_OPTIONS = (
    *_WINDOW_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A rescheduled pod has a new address under its name. By default gRPC resolves it at most every half minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # If a peer's machine is gone, TCP takes a quarter of an hour to notice. These pings notice it sooner.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A proxy in the environment is for outside addresses: it can reach no pod and no loopback port.
    ("grpc.enable_http_proxy", 0),
)
# With SO_REUSEPORT two servers would silently share a port, and each would get half of the calls.
_SERVER_OPTIONS = (
    *_WINDOW_OPTIONS,
    ("grpc.so_reuseport", 0),
    # Less than gRPC's default of five minutes: otherwise the server would treat a channel's pings as an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
_UNAVAILABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,  # the server stopped during the call
    }
)


class _UnreadableMessages(logging.Filter):
    """Shortens gRPC's traceback about bytes that are not a message to one line: the fault is the sender's, not ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = "refused bytes that are no message: %s", (record.exc_info[1],)
            record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
        return True


_UNREADABLE_MESSAGES = _UnreadableMessages()


class CoordinatorUnavailable(RunError):
    """The coordinator gave no usable answer in time: worth trying again."""


def open_channel(address: str, credentials: Credentials | None = None) -> grpc.Channel:
    """A channel to host:port. It connects with the first call, and reconnects within two seconds after the peer is back.

    Args:
        credentials: None takes those of the process's environment.

    Raises:
        UsageError: the environment's credentials cannot be read.
    """
    own = Credentials.from_environment() if credentials is None else credentials
    if own.channel is None:
        channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    else:
        name = (("grpc.ssl_target_name_override", own.server_name),) if own.server_name else ()
        channel = grpc.secure_channel(address, own.channel, options=(*CHANNEL_OPTIONS, *name))
    return channel if own.token is None else grpc.intercept_channel(channel, TokenSender(own.token))


@contextmanager
def coordinator_errors(address: str) -> Iterator[None]:
    """Turns gRPC errors of calls to the coordinator into the two kinds that a role handles.

    Raises:
        CoordinatorUnavailable: no answer in time; the call may or may not have been carried out.
        RunError: the coordinator refused the call.
    """
    try:
        yield
    except grpc.RpcError as error:
        if error.code() in _UNAVAILABLE:
            raise CoordinatorUnavailable(f"coordinator at {address} is unavailable: {error.details()}") from None
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            raise CoordinatorUnavailable(f"coordinator at {address} has no place yet: {error.details()}") from None
        raise RunError(f"coordinator at {address} refused the call: {error.code().name}: {error.details()}") from None


def make_server(max_workers: int, name: str, credentials: Credentials) -> grpc.Server:
    """A server without ports.

    Args:
        max_workers: limit on concurrent calls.
        name: prefix of its threads' names.
        credentials: with a token, calls without it are refused.
    """
    logging.getLogger("grpc._common").addFilter(_UNREADABLE_MESSAGES)  # repeated calls add it only once
    executor = futures.ThreadPoolExecutor(max_workers=max_workers, thread_name_prefix=name)
    checks = () if credentials.token is None else (TokenCheck(credentials.token),)
    return grpc.server(executor, interceptors=checks, options=_SERVER_OPTIONS)


def bind(server: grpc.Server, host: str, port: int, service: str, credentials: Credentials) -> int:
    """Binds a server to host:port (0: any free one) and returns the port.

    Args:
        credentials: with a certificate, the port speaks TLS.

    Raises:
        UsageError: the host is not an address of this machine.
        RunError: the port is taken.
    """
    check_host(host)
    address = host_port(host, port)
    where = f"cannot listen on {address} for the {service}"
    try:
        # Try a plain socket first: gRPC does not report why it failed, and writes its own lines to standard error.
        family, place = resolve(host, port)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: a restart takes its port back at once
            probe.bind(place)
        if credentials.server is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials.server))
    except OSError as error:
        raise RunError(f"{where}: {error.strerror}") from None
    except RuntimeError as error:
        raise RunError(f"{where}: {error}") from None


def reachable_address(host: str, port: int) -> str:
    """host:port for other machines to connect to. If `host` is a wildcard, this machine's address takes its place."""
    if host not in ("0.0.0.0", "::"):
        return host_port(host, port)
    name = socket.gethostname()
    try:
        # An IPv6 wildcard accepts both kinds of address.
        found = socket.getaddrinfo(name, port, socket.AF_INET if host == "0.0.0.0" else 0, socket.SOCK_STREAM)
    except OSError:
        return f"{name}:{port}"
    return host_port(str(found[0][4][0]), port)

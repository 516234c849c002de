"""Who may call whom: a token that all roles of a run share, and TLS, both from files that the environment names.

    SBRL_TOKEN_FILE      the shared token: our servers then refuse calls without it, and clients send it
    SBRL_TLS_CERT_FILE   a server's certificate chain (PEM), with SBRL_TLS_KEY_FILE its key: it then only speaks TLS
    SBRL_TLS_CA_FILE     the authority (PEM) that clients check servers against: they then only speak TLS
    SBRL_TLS_SERVER_NAME the name in the servers' certificate, if clients use another name or an IP address

If none is set, connections are plain and need no token, as on one machine. Health services stay open: Kubernetes' probes have
no token.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from sbrl.errors import UsageError

TOKEN_FILE, CERT_FILE, KEY_FILE = "SBRL_TOKEN_FILE", "SBRL_TLS_CERT_FILE", "SBRL_TLS_KEY_FILE"
CA_FILE, SERVER_NAME = "SBRL_TLS_CA_FILE", "SBRL_TLS_SERVER_NAME"
_HEADER = "authorization"


class Credentials(NamedTuple):
    """A process's credentials: for its own identity, and to check others."""

    token: str | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    authority: bytes | None = None
    server_name: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Credentials:
        """Reads the files that the environment names.

        Raises:
            UsageError: a file cannot be read or is empty, or a certificate comes without its key.
        """
        if (CERT_FILE in environment) != (KEY_FILE in environment):
            raise UsageError(f"{CERT_FILE} and {KEY_FILE} go together: a server needs both to speak TLS; set both or neither")
        token = _read(environment, TOKEN_FILE)
        return cls(
            token=None if token is None else _check_token(token, environment[TOKEN_FILE]),
            certificate=_read(environment, CERT_FILE),
            key=_read(environment, KEY_FILE),
            authority=_read(environment, CA_FILE),
            server_name=environment.get(SERVER_NAME),
        )

    @property
    def server(self) -> grpc.ServerCredentials | None:
        """Credentials for a server's port; None: a plain port."""
        if self.certificate is None or self.key is None:
            return None
        return grpc.ssl_server_credentials([(self.key, self.certificate)])

    @property
    def channel(self) -> grpc.ChannelCredentials | None:
        """Credentials for a client's channel; None: a plain channel."""
        return None if self.authority is None else grpc.ssl_channel_credentials(self.authority)


class TokenCheck(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc comes without types
    """Refuses calls that do not carry the token, before their handler sees them."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def intercept_service(
        self, continuation: Callable[[Any], grpc.RpcMethodHandler | None], call: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(call)
        sent = dict(call.invocation_metadata).get(_HEADER, "")
        # In constant time, so that answers do not reveal how much of a guess is right.
        if handler is None or hmac.compare_digest(sent.encode(), self._expected):
            return handler
        return _refusal(handler, "wrong token" if sent else "no token")


class TokenSender(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Sends the token with every call (grpc's own call credentials would require TLS)."""

    def __init__(self, token: str) -> None:
        self._metadata = ((_HEADER, f"Bearer {token}"),)

    def _send(self, continuation: Callable[[Any, Any], Any], call: grpc.ClientCallDetails, request: Any) -> Any:
        metadata = (*(call.metadata or ()), *self._metadata)
        return continuation(_CallDetails(call.method, call.timeout, metadata, call.credentials, call.wait_for_ready), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _send


class _CallDetails(NamedTuple):
    """Stands in for grpc.ClientCallDetails, which cannot be copied with other metadata."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None = None


def _refusal(handler: grpc.RpcMethodHandler, reason: str) -> grpc.RpcMethodHandler:
    """A handler of the same kind as `handler` that refuses every call with the reason."""

    def refuse(_request: Any, context: grpc.ServicerContext) -> None:
        context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            f"{reason}: this server takes calls of its own run only; set {TOKEN_FILE} to the file with the run's token",
        )

    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return makers[handler.request_streaming, handler.response_streaming](refuse)


def _read(environment: Mapping[str, str], variable: str) -> bytes | None:
    if variable not in environment:
        return None
    path = Path(environment[variable])
    try:
        content = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"{variable} names {path}, which cannot be read: {error.strerror}") from None
    if not content:
        raise UsageError(f"{variable} names {path}, which is empty: put the run's secret in it, or leave {variable} unset")
    return content


def _check_token(token: bytes, path: str) -> str:
    """The token as text that an HTTP header can carry."""
    try:
        text = token.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or " " in text or not text:
        raise UsageError(f"the token in {path} must be printable ASCII without spaces, in one line")
    return text

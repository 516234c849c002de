"""The run's token and TLS over real gRPC: clients without them are refused before a handler sees the call."""

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.weights import WeightsClient
from sbrl.errors import RunError, UsageError
from sbrl.rpc import channels
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.rpc.credentials import CA_FILE, CERT_FILE, KEY_FILE, SERVER_NAME, TOKEN_FILE, Credentials
from sbrl.rpc.health import HealthServer
from sbrl.telemetry.metrics import CoordinatorMetrics
from services.coordinator.server import Coordinator
from tests.coordinator import settled

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def start(tmp_path: Path):
    """Starts a coordinator with the credentials of the environment and returns its address."""
    started = []

    def start() -> str:
        coordinator = Coordinator(tmp_path / "coordinator", CoordinatorMetrics(CollectorRegistry()), settled)
        port = coordinator.start("127.0.0.1", 0)
        started.append(coordinator)
        return f"127.0.0.1:{port}"

    yield start
    for coordinator in started:
        coordinator.stop(0)


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def call_everything(address: str) -> None:
    """One call of each kind: unary, with a stream of chunks out, and with one in."""
    fleet, weights, log = FleetClient(address), WeightsClient(address), LogClient(address)
    try:
        fleet.status()
        term, _ = weights.acquire_term("test")
        weights.publish(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", term, 1)
        assert weights.fetch(newer_than_version=0) is not None
    finally:
        for client in (fleet, weights, log):
            client.close()


CALLS = {
    "unary": lambda address: FleetClient(address).status(),
    "stream in": lambda address: WeightsClient(address).publish(b"x" * 100, 1, 1),
    "stream out": lambda address: WeightsClient(address).fetch(newer_than_version=0),
}


def test_who_has_the_token_is_served(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TOKEN_FILE, write(tmp_path / "token", f"{TOKEN}\n"))  # a file ends with a newline; the token does not
    call_everything(start())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("token", "reason"), [(None, "no token"), (f"{TOKEN}r", "wrong token"), ("x", "wrong token")])
def test_a_stranger_is_refused(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call, token, reason):
    monkeypatch.setenv(TOKEN_FILE, write(tmp_path / "token", TOKEN))
    address = start()
    monkeypatch.delenv(TOKEN_FILE)
    if token is not None:
        monkeypatch.setenv(TOKEN_FILE, write(tmp_path / "other", token))

    with pytest.raises(RunError, match=f"UNAUTHENTICATED: {reason}.*{TOKEN_FILE}"):
        call(address)


def test_without_a_token_nobody_is_asked_for_one(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address = start()
    monkeypatch.setenv(TOKEN_FILE, write(tmp_path / "token", TOKEN))
    call_everything(address)


def test_health_is_open_to_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate):
    monkeypatch.setenv(TOKEN_FILE, write(tmp_path / "token", TOKEN))
    monkeypatch.setenv(CERT_FILE, certificate[0])
    monkeypatch.setenv(KEY_FILE, certificate[1])
    server = HealthServer()
    try:
        port = server.start("127.0.0.1", 0)
        with channels.open_channel(f"127.0.0.1:{port}", Credentials()) as channel:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        server.stop()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A self-signed certificate for sbrl-coordinator, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sbrl-coordinator")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("sbrl-coordinator"), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return write(tmp_path / "tls.crt", signed.public_bytes(pem)), write(tmp_path / "tls.key", secret)


def test_tls(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate):
    monkeypatch.setenv(CERT_FILE, certificate[0])
    monkeypatch.setenv(KEY_FILE, certificate[1])
    monkeypatch.setenv(TOKEN_FILE, write(tmp_path / "token", TOKEN))
    address = start()

    with pytest.raises(CoordinatorUnavailable):  # a plain client cannot even ask
        FleetClient(address).status(timeout=3)
    monkeypatch.setenv(CA_FILE, certificate[0])
    with pytest.raises(CoordinatorUnavailable):  # the certificate is for another name than 127.0.0.1
        FleetClient(address).status(timeout=3)
    monkeypatch.setenv(SERVER_NAME, "sbrl-coordinator")
    call_everything(address)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({TOKEN_FILE: "/nowhere/token"}, f"{TOKEN_FILE} names /nowhere/token, which cannot be read: No such file"),
        ({CERT_FILE: "/tls.crt"}, "go together"),
        ({KEY_FILE: "/tls.key"}, "go together"),
    ],
)
def test_files_that_are_not_there(environment: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        Credentials.from_environment(environment)


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), (" \n", "is empty"), ("a b", "without spaces"), ("é", "ASCII")]
)
def test_tokens_that_a_header_cannot_carry(tmp_path: Path, content: str, message: str):
    with pytest.raises(UsageError, match=message):
        Credentials.from_environment({TOKEN_FILE: write(tmp_path / "token", content)})

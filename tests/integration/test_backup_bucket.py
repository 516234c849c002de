"""Backups in a bucket of a real S3-compatible server, which checks every request's signature and content."""

from __future__ import annotations

import datetime
import hashlib
import io
import ipaddress
import json
import os
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import obstore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from obstore.exceptions import BaseError
from obstore.store import S3Store

from sbrl.backup import __main__ as making
from sbrl.backup import bucket, restore
from sbrl.backup.bucket import Bucket
from sbrl.backup.catalog import find, open_store, prune
from sbrl.backup.stores import Store
from sbrl.errors import RunError, UsageError
from sbrl.rpc.ports import free_ports
from tests.backups import contents, make_run

ROOT = Path(__file__).parents[2]
SERVER = ROOT / ".venv-s3"
START_SECONDS = 60.0


class Server(NamedTuple):
    port: int
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a pod."""
        url = f"http://127.0.0.1:{self.port}"
        return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "secret of one"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    complete, constraints = SERVER / ".complete", ROOT / "constraints-s3.txt"
    if not complete.exists() or complete.read_text(encoding="utf-8") != constraints.read_text(encoding="utf-8"):
        pytest.fail(".venv-s3 is missing or not what constraints-s3.txt says: run `make s3`", pytrace=False)
    data = tmp_path_factory.mktemp("s3")
    (data / "backups").mkdir()  # a bucket
    (port,) = free_ports("127.0.0.1", 1)
    command = [
        str(SERVER / "bin/python"),
        "-m",
        "nanio",
        "serve",
        "--data-dir",
        str(data),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    keys = {"NANIO_ACCESS_KEY": "one", "NANIO_SECRET_KEY": "secret of one"}
    log = data.with_name("s3.log")
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env={**os.environ, **keys}, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield Server(port, data)
        finally:
            process.kill()


@pytest.fixture
def keys(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("url", ["s3://backups", "s3://backups/team=ä//rl+1/"])
def test_a_run_goes_to_a_bucket_and_comes_back(url: str, server: Server, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("a", "b", "c"):
        making.main([str(run.path), url, "--name", name, "--keep", "2"])
    store = open_store(url)
    assert [backup.name for backup in find(store)] == ["b", "c"]
    assert store.folders()[-2:] == ["b", "c"]
    restore.main([url, str(tmp_path / "newest")])
    restore.main([f"{url.rstrip('/')}/b", str(tmp_path / "one"), "--part", "coordinator", "--shards", "2"])
    assert "run.yaml" in contents(tmp_path / "newest")
    assert {path.split("/")[0] for path in contents(tmp_path / "one")} == {"coordinator"}
    # A half-written backup does not count, and is deleted once nobody can still be writing it.
    store.remove("b/backup.json")
    assert [backup.name for backup in find(store)] == ["c"]
    assert 0 <= store.age_seconds("b", time.time()) < 60
    prune(store, "pong-1", 2)
    assert store.folders()[-2:] == ["b", "c"]
    store.remove("b")
    assert "b" not in store.folders()


@pytest.mark.usefixtures("keys")
def test_more_than_one_page_is_listed(server: Server) -> None:
    for number in range(1005):
        folder = server.data / f"backups/many/{number:04d}"
        folder.mkdir(parents=True)
        (folder / "file").touch()
    assert open_store("s3://backups/many").folders() == [f"{number:04d}" for number in range(1005)]
    store = open_store("s3://backups")
    assert isinstance(store, Bucket)
    assert len(store._list("many")) == 1005


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "PART_BYTES", 5 << 20)  # S3 takes no smaller ones


def write(store: Store, path: str, data: bytes, of: bytes | None = None) -> None:
    """Writes a file. Args: of: the data whose checksum is sent; None: `data`."""
    store.write(path, io.BytesIO(data), len(data), hashlib.sha256(data if of is None else of).hexdigest())


@pytest.mark.usefixtures("keys", "small_parts")
@pytest.mark.parametrize(("size", "parts"), [(0, ""), (5 << 20, ""), ((5 << 20) + 1, "-2"), (11 << 20, "-3")])
def test_what_is_large_goes_in_parts_and_comes_back(size: int, parts: str) -> None:
    store, data = open_store("s3://backups/sizes"), random.Random(size).randbytes(size)
    assert isinstance(store, Bucket)
    write(store, "file", data)
    assert str(obstore.head(store._store, "file")["e_tag"]).strip('"')[32:] == parts
    with store.read("file") as file:
        assert file is not None
        assert file.read(7) + file.read() == data


@pytest.mark.usefixtures("keys", "small_parts")
@pytest.mark.parametrize("size", [1, 11 << 20])
def test_a_file_that_changes_while_it_is_copied_is_no_object(size: int, server: Server) -> None:
    store = open_store("s3://backups/changed")
    with pytest.raises(RunError, match="a/file changed while it was copied: try again"):
        write(store, "a/file", bytes(size), of=b"before")
    assert store.folders() == []
    assert not list((server.data / ".nanio/multipart").iterdir())  # nor are its parts kept


@pytest.mark.usefixtures("keys")
def test_a_damaged_object_is_refused(server: Server, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    making.main([str(run.path), "s3://backups/damaged", "--name", "a"])
    (state,) = (server.data / "backups/damaged/a/learner").rglob("state.json")
    state.write_bytes(b"?" * state.stat().st_size)
    with pytest.raises(RunError, match=r"state\.json is not what was written"):
        restore.main(["s3://backups/damaged", str(tmp_path / "back")])


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("url", "name", "value", "error", "said"),
    [
        ("s3://backups/a/../b", "AWS_REGION", "us-east-1", UsageError, "is no place in a bucket"),
        ("s3://backups", "AWS_ENDPOINT_URL", "http://127.0.0.1:99999", UsageError, "it must be a URL such as https"),
        ("s3://backups", "AWS_ACCESS_KEY_ID", "one\n", UsageError, "AWS_ACCESS_KEY_ID has spaces or a new line"),
        ("s3://backups", "AWS_CA_BUNDLE", "/not/there", UsageError, "AWS_CA_BUNDLE=/not/there cannot be read: No such file"),
        ("s3://backups", "AWS_CA_BUNDLE", __file__, UsageError, "AWS_CA_BUNDLE=.*: No certificates found"),
        ("s3://backups", "AWS_CHECKSUM_ALGORITHM", "md4", UsageError, '"md4" is not a valid checksum algorithm'),
        ("s3://backups", "AWS_SECRET_ACCESS_KEY", "another", RunError, "is refused: SignatureDoesNotMatch"),
        ("s3://backups", "AWS_ACCESS_KEY_ID", "two", RunError, "is refused: InvalidAccessKeyId"),
        ("s3://missing", "AWS_REGION", "us-east-1", RunError, "is refused: NoSuchBucket"),
        ("s3://backups", "AWS_ENDPOINT_URL", "http://127.0.0.1:9", RunError, "has no answer: Connection refused"),
        ("s3://backups", "AWS_ENDPOINT_URL", "minio:9000", UsageError, "it must be a URL such as https"),
        ("s3://backups", "AWS_SECRET_ACCESS_KEY", "", UsageError, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3:///prefix", "AWS_REGION", "us-east-1", UsageError, "names no bucket"),
    ],
)
def test_what_a_bucket_refuses_is_one_line(
    url: str, name: str, value: str, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "RETRIES", 1)
    monkeypatch.setenv(name, value)
    run = make_run(tmp_path / "run")
    with pytest.raises(error, match=said) as raised:
        making.main([str(run.path), url])
    assert "\n" not in str(raised.value)


@contextmanager
def web_server(answer: bytes, tls: ssl.SSLContext | None = None, headers: tuple[tuple[str, str], ...] = ()) -> Iterator[str]:
    """Yields the URL of a server that answers every GET in the same way and then closes the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for header in headers or (("Content-Length", str(len(answer))),):
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()


@pytest.mark.usefixtures("keys")
def test_an_answer_that_breaks_off_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "RETRIES", 0)
    headers = (("Content-Length", "5000000"), ("ETag", '"a"'), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"))
    with web_server(b"x" * 3_000_000, headers=headers) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = open_store("s3://backups")
        with store.read("file") as file:
            assert file is not None
            with pytest.raises(RunError, match=r"^s3://backups/file has no whole answer: \w+$"):
                file.read()


@pytest.mark.usefixtures("keys")
def test_keys_of_a_role(monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path) -> None:
    """As in Kubernetes' pods: a pod with the token asks for keys that expire."""
    for name in bucket.KEYS:
        monkeypatch.setenv(name, "")
    (tmp_path / "token").write_text("a token")
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    given = {"AccessKeyId": "one", "SecretAccessKey": "secret of one", "Token": "", "Expiration": f"{later:%Y-%m-%dT%H:%M:%SZ}"}
    with web_server(json.dumps(given).encode()) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/keys")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        store = open_store("s3://backups/role")
        write(store, "a/file", b"content")
        assert store.folders() == ["a"]


def certificate(folder: Path) -> ssl.SSLContext:
    """Makes a server's certificate in cert.pem. Clients with that file trust the server."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bucket")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(signed.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.mark.usefixtures("keys")
def test_a_certificate_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bucket, "RETRIES", 0)
    page = b"<ListBucketResult><CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes></ListBucketResult>"
    with web_server(page, certificate(tmp_path)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(RunError, match="has a certificate that is not trusted: UnknownIssuer"):
            open_store("s3://backups").folders()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        assert open_store("s3://backups").folders() == ["a"]


@pytest.mark.usefixtures("keys")
def test_a_container_without_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(BaseError, match="No CA certificates were loaded from the system"):
        S3Store("backups")
    assert open_store("s3://backups/nothing").folders() == []


@pytest.mark.usefixtures("keys")
def test_amazon_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    store = open_store("s3://mine/")
    assert isinstance(store, Bucket)
    assert store.where == "s3://mine"
    assert obstore.sign(store._store, "GET", "a/file", datetime.timedelta(hours=1)).startswith(
        "https://s3.eu-west-1.amazonaws.com/mine/a/file?"
    )

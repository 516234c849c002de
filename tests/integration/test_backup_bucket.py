"""Backups in a bucket of a real S3-compatible server, which checks every request's signature and content."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from sbrl.backup import __main__ as making
from sbrl.backup import bucket, restore
from sbrl.backup.bucket import Bucket
from sbrl.backup.catalog import find, open_store, prune
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
        """What a pod is given."""
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
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("url", ["s3://backups", "s3://backups/team a/rl+1/"])
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
    # What is half written is none, and goes once nobody can be at it any more.
    store.remove("b/backup.json")
    assert [backup.name for backup in find(store)] == ["c"]
    assert 0 <= store.age_seconds("b", time.time()) < 60
    prune(store, "pong-1", 2)
    assert store.folders()[-2:] == ["b", "c"]
    store.remove("b")
    assert "b" not in store.folders()


@pytest.mark.usefixtures("keys")
def test_more_than_one_page_is_listed(server: Server) -> None:
    folder = server.data / "backups/many/files"
    folder.mkdir(parents=True)
    for number in range(1005):
        (folder / f"{number:04d}").touch()
    store = open_store("s3://backups/many")
    assert isinstance(store, Bucket)
    assert [len(page.findall("Contents")) for page in store._pages("files/")] == [1000, 5]


@pytest.mark.usefixtures("keys")
def test_a_damaged_object_is_refused(server: Server, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    making.main([str(run.path), "s3://backups/damaged", "--name", "a"])
    (state,) = (server.data / "backups/damaged/a/learner").rglob("state.json")
    state.write_bytes(b"?")
    with pytest.raises(RunError, match=r"state\.json is not what was written"):
        restore.main(["s3://backups/damaged", str(tmp_path / "back")])


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("url", "name", "value", "error", "said"),
    [
        ("s3://backups", "AWS_SECRET_ACCESS_KEY", "another", RunError, "is refused: SignatureDoesNotMatch"),
        ("s3://backups", "AWS_ACCESS_KEY_ID", "two", RunError, "is refused: InvalidAccessKeyId"),
        ("s3://missing", "AWS_REGION", "us-east-1", RunError, "is refused: NoSuchBucket"),
        ("s3://backups", "AWS_ENDPOINT_URL", "http://127.0.0.1:9", RunError, "no answer: .*refused"),
        ("s3://backups", "AWS_ENDPOINT_URL", "minio:9000", UsageError, "it must be a URL such as https"),
        ("s3://backups", "AWS_SECRET_ACCESS_KEY", "", UsageError, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3:///prefix", "AWS_REGION", "us-east-1", UsageError, "names no bucket"),
    ],
)
def test_what_a_bucket_refuses_is_one_line(
    url: str, name: str, value: str, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv(name, value)
    run = make_run(tmp_path / "run")
    with pytest.raises(error, match=said) as raised:
        making.main([str(run.path), url])
    assert "\n" not in str(raised.value)


def test_signatures_are_those_of_amazons_own_example() -> None:
    """GET of a bucket's lifecycle: 'Signature Calculations for the Authorization Header' in Amazon S3's API reference."""
    keys = bucket.Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": bucket.EMPTY_SHA256,
        "x-amz-date": "20130524T000000Z",
    }
    header = bucket.authorization("GET", "/", "lifecycle=", headers, "us-east-1", keys)
    assert header.endswith("Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")


def test_amazon_is_the_default_and_keys_may_expire() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c", "AWS_REGION": "eu-west-1"}
    store = Bucket.from_environment("s3://mine/", environment)
    assert store._endpoint == "https://s3.eu-west-1.amazonaws.com"
    assert store._keys.session == "c"
    assert store.where == "s3://mine"

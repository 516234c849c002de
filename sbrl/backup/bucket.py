"""An S3-compatible bucket as a store of backups.

It uses obstore, which has no further dependencies (boto3 needs another python-dateutil than SBRL is tested with, minio more
packages), sends objects in parts, retries, and supports every kind of AWS credentials. It reads these environment variables:

    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY       and AWS_SESSION_TOKEN for keys that expire
    AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN      or AWS_CONTAINER_CREDENTIALS_*, AWS_METADATA_ENDPOINT: a role's keys
    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL        of another server than Amazon's; the path names the bucket
    AWS_REGION or AWS_DEFAULT_REGION               else us-east-1
    AWS_CA_BUNDLE                                  certificates in addition to the system's, instead of certifi's
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import certifi
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from sbrl.backup.stores import PIECE_BYTES, checked
from sbrl.errors import RunError, UsageError

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta

PART_BYTES, MAX_PARTS = 8 << 20, 10_000  # of an object; S3 requires at least 5 MiB per part
PARTS_AT_ONCE = 4  # in memory, plus one that is being filled: the memory that a backup takes
CALL_SECONDS = 120  # limit for sending a part, or for waiting without a byte of an answer
RETRIES = 10  # five seconds if nobody listens

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ROLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",  # a machine's own role: only asked if set, because elsewhere nobody answers
)
# Values for obstore must have this form: it panics if it cannot send something.
_BUCKET = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]*")
_ENDPOINT = re.compile(r"https?://([-_.A-Za-z0-9]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,5}))?(/[-_.~/A-Za-z0-9]*)?")
_STRUCTURE = "\n\nDebug source:"  # in an error, this follows the message


class Bucket:
    """The objects of one bucket below a prefix."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: s3://bucket/prefix.

        Raises:
            UsageError: the URL names no bucket, or the environment has no keys, no valid endpoint or no certificates.
        """
        name, _, prefix = url.removeprefix("s3://").partition("/")
        if not _BUCKET.fullmatch(name):
            raise UsageError(f"{url} names no bucket: write s3://BUCKET/PREFIX")
        folders = [folder for folder in prefix.split("/") if folder]
        if not all(folder.isprintable() and folder not in (".", "..") for folder in folders):
            raise UsageError(f"{url!r} is no place in a bucket: . and .. and control characters cannot be in it")
        prefix = "/".join(folders)
        self.where = f"s3://{name}/{prefix}".rstrip("/")
        settings = _settings(url)
        certificates = os.environ.get("AWS_CA_BUNDLE")
        try:
            self._store = S3Store(
                name,
                prefix=prefix or None,
                **settings,
                disable_bulk_delete=True,  # not every server supports it
                retry_config={"max_retries": RETRIES},
                client_options={
                    "allow_http": settings["aws_endpoint_url_s3"].startswith("http:"),
                    # The default is certifi's: a container may have no system certificates, and then even HTTP would fail.
                    "root_certificate": Path(certificates or certifi.where()).read_bytes(),
                    "timeout": "1day",  # for a whole file; the next one is for a stalled transfer
                    "read_timeout": f"{CALL_SECONDS}s",
                },
            )
        except OSError as error:
            raise UsageError(f"AWS_CA_BUNDLE={certificates} cannot be read: {error.strerror}") from None
        except (BaseError, ValueError) as error:
            about = f", or AWS_CA_BUNDLE={certificates}" if certificates else ""
            raise UsageError(f"{url} cannot be used with the AWS_ variables that are set{about}: {_cause(error)}") from None

    def write(self, path: str, file: IO[bytes], size: int, sha256: str) -> None:
        pieces = checked(path, file, sha256)
        with self._refusals(path):
            obstore.put(
                self._store,
                path,
                b"".join(pieces) if size <= PART_BYTES else pieces,  # one request, or parts that become an object at the end
                chunk_size=max(PART_BYTES, -(-size // MAX_PARTS)),
                max_concurrency=PARTS_AT_ONCE,
            )

    @contextmanager
    def read(self, path: str) -> Iterator[IO[bytes] | None]:
        found = None
        with self._refusals(path), _absent():
            found = obstore.get(self._store, path)
        if found is None:
            yield None
            return
        with io.BufferedReader(_Body(self._pieces(path, found)), PIECE_BYTES) as file:
            yield file

    def folders(self) -> list[str]:
        with self._refusals(""):
            return sorted(obstore.list_with_delimiter(self._store)["common_prefixes"])

    def age_seconds(self, folder: str, now: float) -> float:
        return now - max((one["last_modified"].timestamp() for one in self._list(folder)), default=now)

    def remove(self, path: str) -> None:
        inside = [one["path"] for one in self._list(path)]
        with self._refusals(path):
            obstore.delete(self._store, inside)
            with _absent():  # S3 does not report a missing object, but other servers may
                obstore.delete(self._store, path)

    def _list(self, folder: str) -> list[ObjectMeta]:
        with self._refusals(folder):
            return list(obstore.list(self._store, folder).collect())

    def _pieces(self, path: str, found: GetResult) -> Iterator[bytes]:
        with self._refusals(path):
            yield from found.stream(PIECE_BYTES)

    @contextmanager
    def _refusals(self, path: str) -> Iterator[None]:
        """Raises RunError if a request is refused, or nobody answers."""
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            request = re.search(r"Error performing (\w+ [^\s?]+)", str(error))
            raise RunError(f"{request[1] if request else f'{self.where}/{path}'} {_said(str(error))}") from None


class _Body(io.RawIOBase):
    """The data that a bucket sends, as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def _settings(url: str) -> dict[str, Any]:
    """Keys, region and endpoint. Raises UsageError if the environment has none, or has values that cannot be sent."""
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]  # as AWS's own programs do; obstore also reads the environment, and would send empty values
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    settings = {"AWS_REGION": region, **{name: os.environ[name] for name in (*KEYS, "AWS_SESSION_TOKEN") if name in os.environ}}
    for name, value in settings.items():
        if value != value.strip() or not (value.isascii() and value.isprintable()):  # it may be a key: do not show it
            raise UsageError(f"{name} has spaces or a new line at an end, or what is not ASCII: set it as the server gave it")
    if not all(name in settings for name in KEYS) and not any(name in os.environ for name in ROLES):
        raise UsageError(f"{url} takes keys: set {' and '.join(KEYS)}, or for a role's one of {', '.join(ROLES)}")
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com"
    )
    form = _ENDPOINT.fullmatch(endpoint)
    if form is None or int(form["port"] or 0) > 65_535:
        raise UsageError(
            f"AWS_ENDPOINT_URL, or what AWS_REGION makes of it, is {endpoint}: it must be a URL such as https://minio.example:9000"
        )
    return {name.lower(): value for name, value in settings.items()} | {"aws_endpoint_url_s3": endpoint.rstrip("/")}


@contextmanager
def _absent() -> Iterator[None]:
    """Ignores a missing object in an existing bucket."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise


def _said(error: str) -> str:
    """The message of obstore's error in one line: the server's message, else its status, else the innermost cause."""
    if found := re.search(r"<Code>(.*?)(?=</Code>)(?:.*?<Message>(.*?)</Message>)?", error, re.DOTALL):
        said = f"is refused: {found[1]}: {found[2] or ''}"
    elif found := re.search(r"status code: (\d+[ \w]*)", error):
        said = f"is refused: HTTP {found[1]}"
    elif "HTTP error" in error:
        had = "no answer" if "Error performing" in error else "no whole answer"
        said = f"has {'a certificate that is not trusted' if 'InvalidCertificate' in error else had}: {_cause(error)}"
    else:
        said = f"fails: {error.partition(_STRUCTURE)[0]}"
    return " ".join(said.split())


def _cause(error: object) -> str:
    """The innermost cause in the structure that obstore shows below an error: the last item before closing brackets."""
    lines = [line for line in str(error).splitlines() if re.search(r"\w", line)]
    return re.sub(r"^\s*(\w+: )?|[\s,]*$", "", lines[-1]).strip('"').replace("\\", "")

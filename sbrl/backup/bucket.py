"""An S3-compatible bucket as a store of backups: four requests, signed by AWS' Signature Version 4. Of the environment it takes

    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY       and AWS_SESSION_TOKEN for keys that expire
    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL        of another server than Amazon's
    AWS_REGION or AWS_DEFAULT_REGION               else us-east-1
    AWS_CA_BUNDLE                                  certificates in place of the system's

No SDK: Amazon's own wants another python-dateutil than the rest of SBRL is tested with.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, NamedTuple, Self
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from sbrl.errors import RunError, UsageError

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
MAX_BYTES = 5 << 30  # of one request, by S3's rules
CALL_SECONDS = 60.0  # without a byte
TRIES, RETRY_SECONDS = 4, 1.0
SERVERS_FAULT = 500  # from this status on; it may pass


class Keys(NamedTuple):
    """Who asks."""

    access: str
    secret: str
    session: str = ""


class Bucket:
    """The objects of one bucket below a prefix."""

    def __init__(self, name: str, prefix: str, endpoint: str, region: str, keys: Keys, ca_file: str | None = None) -> None:
        """Args: prefix: "" or with a slash at its end; endpoint: a URL; requests name the bucket in their path."""
        self._name, self._prefix, self._region, self._keys = name, prefix, region, keys
        self._endpoint = endpoint.rstrip("/")
        self._tls = ssl.create_default_context(cafile=ca_file) if endpoint.startswith("https:") else None

    @classmethod
    def from_environment(cls, url: str, environment: Mapping[str, str] = os.environ) -> Self:
        """
        Args:
            url: s3://bucket/prefix.

        Raises:
            UsageError: it names no bucket, or the environment no keys, an endpoint that is no URL or no certificates.
        """
        name, _, prefix = url.removeprefix("s3://").partition("/")
        if not name:
            raise UsageError(f"{url} names no bucket: write s3://BUCKET/PREFIX")
        access, secret = (environment.get(key, "") for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
        if not (access and secret):
            raise UsageError(f"{url} takes keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
        endpoint = endpoint or f"https://s3.{region}.amazonaws.com"
        if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc:
            raise UsageError(f"AWS_ENDPOINT_URL is {endpoint}: it must be a URL such as https://minio.example:9000")
        prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        keys = Keys(access, secret, environment.get("AWS_SESSION_TOKEN", ""))
        try:
            return cls(name, prefix, endpoint, region, keys, environment.get("AWS_CA_BUNDLE") or None)
        except OSError as error:
            raise UsageError(f"AWS_CA_BUNDLE={environment.get('AWS_CA_BUNDLE')} cannot be read: {error.strerror}") from None

    @property
    def where(self) -> str:
        return f"s3://{self._name}/{self._prefix}".rstrip("/")

    def write(self, path: str, file: IO[bytes], size: int, sha256: str) -> None:
        if size > MAX_BYTES:
            raise RunError(f"{path} has {size:,} bytes, and S3 takes {MAX_BYTES:,} at a time: more shards make each smaller")
        start = file.tell()

        def body() -> IO[bytes]:
            file.seek(start)
            return file

        with self._ask("PUT", path, sha256=sha256, size=size, body=body):
            pass

    @contextmanager
    def read(self, path: str) -> Iterator[IO[bytes] | None]:
        with self._ask("GET", path, may_be_absent=True) as answer:
            yield answer

    def folders(self) -> list[str]:
        found = [prefix for page in self._pages("", delimiter="/") for prefix in _texts(page, "CommonPrefixes/Prefix")]
        return sorted(prefix.removeprefix(self._prefix).rstrip("/") for prefix in found)

    def age_seconds(self, folder: str, now: float) -> float:
        times = [text for page in self._pages(f"{folder}/") for text in _texts(page, "Contents/LastModified")]
        return now - max((datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() for text in times), default=now)

    def remove(self, path: str) -> None:
        inside = [key for page in self._pages(f"{path}/") for key in _texts(page, "Contents/Key")]
        for key in (*inside, self._prefix + path):
            with self._ask("DELETE", key.removeprefix(self._prefix), may_be_absent=True):
                pass

    def _pages(self, below: str, **more: str) -> Iterator[ElementTree.Element]:
        """What is listed below a path, a thousand at a time."""
        query = {"list-type": "2", "prefix": self._prefix + below, **more}
        while True:
            with self._ask("GET", None, query=query) as answer:
                assert answer is not None
                try:
                    page = ElementTree.fromstring(answer.read())
                except ElementTree.ParseError as error:
                    raise RunError(f"{self._endpoint} does not answer as S3 does: {error}") from None
            for element in page.iter():
                element.tag = element.tag.rpartition("}")[2]  # without its namespace
            yield page
            token = page.findtext("NextContinuationToken")
            if not token:
                return
            query["continuation-token"] = token

    @contextmanager
    def _ask(
        self,
        method: str,
        path: str | None,
        *,
        query: Mapping[str, str] | None = None,
        sha256: str = EMPTY_SHA256,
        size: int = 0,
        body: Callable[[], IO[bytes]] | None = None,
        may_be_absent: bool = False,
    ) -> Iterator[IO[bytes] | None]:
        """Makes a request, again where the server may do better in a moment; yields None for what may be absent and is.

        Args:
            path: below the prefix; None: the bucket itself.
            body: returns what is sent, at its beginning.

        Raises:
            RunError: it is refused, or nobody answers.
        """
        place = f"/{self._name}" if path is None else f"/{self._name}/{self._prefix}{path}"
        what = f"{method} {self._endpoint}{place}"
        answer: IO[bytes] | None = None
        for left in reversed(range(TRIES)):
            try:
                answer = self._send(method, quote(place), query or {}, sha256, size, body)
                break
            except urllib.error.HTTPError as error:
                with error:
                    said = _refusal(error)
                if error.code == 404 and may_be_absent and "NoSuchBucket" not in said:
                    break
                if error.code < SERVERS_FAULT or not left:
                    raise RunError(f"{what} is refused: {said}") from None
            except OSError as error:
                if not left:
                    raise RunError(f"{what}: no answer: {getattr(error, 'reason', error)}") from None
            time.sleep(RETRY_SECONDS * (TRIES - left))  # no event tells when a server is well again
        if answer is None:
            yield None
            return
        with answer:
            try:
                yield answer
            except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
                raise RunError(f"{what}: the answer broke off: {error}") from None

    def _send(
        self, method: str, place: str, query: Mapping[str, str], sha256: str, size: int, body: Callable[[], IO[bytes]] | None
    ) -> IO[bytes]:
        now = datetime.now(UTC)
        text = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in sorted(query.items()))
        signed = {
            "host": urlsplit(self._endpoint).netloc,
            "x-amz-content-sha256": sha256,
            "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
            **({"x-amz-security-token": self._keys.session} if self._keys.session else {}),
        }
        signed["authorization"] = authorization(method, place, text, signed, self._region, self._keys)
        headers = {**signed, **({"content-length": str(size), "content-type": "application/octet-stream"} if body else {})}
        request = urllib.request.Request(
            f"{self._endpoint}{place}{'?' if text else ''}{text}",
            data=body() if body else None,
            headers=headers,
            method=method,
        )
        opened: IO[bytes] = urllib.request.urlopen(request, timeout=CALL_SECONDS, context=self._tls)
        return opened


def authorization(method: str, place: str, query: str, headers: Mapping[str, str], region: str, keys: Keys) -> str:
    """The header that signs a request (AWS Signature Version 4). Args: place, query: as they are sent."""
    names = ";".join(sorted(headers))
    lines = [method, place, query, *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names]
    lines.append(headers["x-amz-content-sha256"])
    moment = headers["x-amz-date"]
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = f"AWS4{keys.secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}".encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"


def _texts(page: ElementTree.Element, path: str) -> list[str]:
    return [element.text or "" for element in page.findall(path)]


def _refusal(error: urllib.error.HTTPError) -> str:
    """What the server says, in one line."""
    try:
        answer = ElementTree.fromstring(error.read(65_536))
    except (ElementTree.ParseError, OSError):
        return f"HTTP {error.code} {error.reason}"
    code, message = (next((one.text for one in answer.iter() if one.tag.endswith(tag)), "") for tag in ("Code", "Message"))
    return " ".join(f"{code}: {message}".split())

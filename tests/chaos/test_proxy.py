"""The proxy of the chaos runs passes everything on, drops without a reset, and slows down to a given rate."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Link, Proxies

TIMEOUT = 20.0


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def link() -> Iterator[Link]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxies = Proxies()
        proxies.start()
        yield proxies.open(f"127.0.0.1:{server.server_address[1]}")
        proxies.close()
        server.shutdown()


def connect(link: Link) -> socket.socket:
    host, _, port = link.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def echoed(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = client.recv(size - len(got))
        assert part, "the connection was closed"
        got += part
    return got


def test_it_passes_everything_on_both_ways(link: Link) -> None:
    data = bytes(range(256)) * 400
    with connect(link) as client:
        assert echoed(client, data) == data
    # Bytes towards the client are counted after it has them.
    deadline = time.monotonic() + TIMEOUT
    while link.bytes_passed < 2 * len(data) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert link.bytes_passed == 2 * len(data)


def test_a_cut_is_silence_for_old_and_new_connections_and_what_waited_arrives_after_it(link: Link) -> None:
    with connect(link) as old:
        assert echoed(old, b"before") == b"before"
        link.cut()
        old.sendall(b"during")
        old.settimeout(0.5)
        with pytest.raises(TimeoutError):  # neither data nor an end nor a reset
            old.recv(1)
        with connect(link) as new:
            new.sendall(b"hello")
            new.settimeout(0.5)
            with pytest.raises(TimeoutError):
                new.recv(1)
            link.mend()
            for client, data in ((old, b"during"), (new, b"hello")):
                client.settimeout(TIMEOUT)
                assert receive(client, len(data)) == data


def test_a_slow_link_passes_what_it_is_told_and_is_fast_again_when_mended(link: Link) -> None:
    with connect(link) as client:
        link.slow(20_000)
        start = time.monotonic()
        assert len(echoed(client, bytes(20_000))) == 20_000
        assert time.monotonic() - start > 0.9
        link.mend()
        start = time.monotonic()
        for _ in range(10):
            assert len(echoed(client, bytes(20_000))) == 20_000
        assert time.monotonic() - start < 8.0


def test_answers_that_are_held_are_lost_with_the_connection_and_the_next_one_has_its_own(link: Link) -> None:
    with connect(link) as old:
        assert echoed(old, b"before") == b"before"
        link.hold_answers()
        old.sendall(b"during")
        deadline = time.monotonic() + TIMEOUT
        while link.bytes_sent < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (link.bytes_sent, link.bytes_answered) == (12, 6)
        old.settimeout(0.5)
        with pytest.raises(TimeoutError):
            old.recv(1)
        old.settimeout(TIMEOUT)
        link.reset()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with connect(link) as new:
        assert echoed(new, b"after") == b"after"
    assert link.connections == 2


def test_an_end_that_is_gone_is_passed_on(link: Link) -> None:
    with connect(link) as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""

"""A TCP proxy whose links can be cut like a cable, slowed, or broken before an answer.

While a link is cut, nothing passes and no connection is reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

CHUNK_BYTES = 1 << 16
SLICE_SECONDS = 0.05  # a slow link passes the bytes of one slice, then waits
NO_LINGER = struct.pack("ii", 1, 0)  # with this, closing a socket resets its connection


class Link:
    """A link from a client to a server. Thread-safe; the traffic runs on the thread of its `Proxies`.

    While a link is cut, bytes wait in the two sockets' buffers, and both ends notice only silence. The kernel still accepts new
    connections, which are silent too. When the link is restored, everything that waited passes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        """Args: address: host:port of the server."""
        self._loop = loop
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._passing = asyncio.Event()
        self._passing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._bytes_per_second: float | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""
        self.connections = 0  # passed on so far
        self.bytes_sent = self.bytes_answered = 0  # by clients, and by the server

    @property
    def bytes_passed(self) -> int:
        """Bytes in both directions."""
        return self.bytes_sent + self.bytes_answered

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._passing.clear)

    def strand(self) -> None:
        """Makes existing connections pass nothing any more, as if the other machine were gone. New connections pass."""
        self._loop.call_soon_threadsafe(self._strand)

    def _strand(self) -> None:
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()

    def slow(self, bytes_per_second: float) -> None:
        """Limits each direction of each connection."""
        self._bytes_per_second = bytes_per_second

    def mend(self) -> None:
        self._bytes_per_second = None
        self._loop.call_soon_threadsafe(self._passing.set)

    def hold_answers(self) -> None:
        """Passes on the clients' bytes, but holds back the server's answers, until `reset`."""
        self._loop.call_soon_threadsafe(self._answering.clear)

    def reset(self) -> None:
        """Breaks the clients' connections, like a machine in between that forgets them. Held answers are lost."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for client in self._clients:
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            client.transport.abort()
        self._answering.set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # each closes its sockets while the loop still runs

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        passing = self._passing
        try:
            await passing.wait()
            try:
                there = await asyncio.open_connection(self._host, self._port)
            except OSError:  # nobody listens there: the client notices it as it would without a proxy
                return
            self.connections += 1
            self._clients.add(writer)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, there[1], passing, is_answer=False))
                    both.create_task(self._pass_on(there[0], writer, passing, is_answer=True))
            finally:
                self._clients.discard(writer)
                there[1].close()
        except* (OSError, asyncio.CancelledError):  # one of the two ends is gone; the other is closed below
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event, is_answer: bool
    ) -> None:
        while True:
            limit = self._bytes_per_second
            data = await reader.read(CHUNK_BYTES if limit is None else max(1, int(limit * SLICE_SECONDS)))
            if is_answer and data:
                await self._answering.wait()
            await passing.wait()  # also for bytes read before or during the cut: a cable stores nothing
            if not data:
                raise ConnectionResetError  # this end has closed
            limit = self._bytes_per_second  # read now: it may have been set while nothing came
            if limit is not None:
                await asyncio.sleep(len(data) / limit)
            writer.write(data)
            await writer.drain()  # raises if the connection was reset meanwhile
            if is_answer:
                self.bytes_answered += len(data)
            else:
                self.bytes_sent += len(data)


class Proxies:
    """Links that share one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._links: list[Link] = []

    def start(self) -> None:
        self._thread.start()

    def open(self, address: str) -> Link:
        """Opens a new link to host:port. Clients connect to `link.address`."""
        link = Link(self._loop, address)
        self._run(link.listen())
        self._links.append(link)
        return link

    def close(self) -> None:
        for link in self._links:
            self._run(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

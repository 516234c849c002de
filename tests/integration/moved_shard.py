"""A learner's and an actor's way to a shard whose name gets another address; test_moved_shard.py runs it.

`python -m tests.integration.moved_shard HOSTS DIRECTORY ROLE`: HOSTS is the system's /etc/hosts, ROLE whose way it is.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
from sbrl.replay.probe import ShardProbe
from sbrl.replay.table import ShardServer

from bench.sinks import into
from sbrl.config import load
from sbrl.ports import free_ports
from sbrl.replay.items import Items, ItemShape
from sbrl.replay.sampler import ShardSampler
from sbrl.replay.segments import Transition
from sbrl.replay.writer import BlockedError, EpisodeWriter

NAME = "replay-0.replay.test"
SHAPE = ItemShape(1, 1, (2,), np.dtype(np.float32))
CONFIG = load(
    overrides=[
        *("env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1", "agent.n_step=1"),
        *("agent.n_max=1", "replay.error_buffer=1e9", "learner.updates_per_step=64", "learner.batch_size=4"),
    ]
)


class Address:
    """A TCP port on one loopback address that leads to a server; closing it cuts every connection, as a pod's end does."""

    def __init__(self, host: str, port: int, target: int) -> None:
        self._server = socket.create_server((host, port))
        self._target = target
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # closed, or the server behind it is
                return
            self._connections += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()


def main(hosts: Path, directory: Path, role: str) -> None:
    port, first_port, second_port = free_ports("127.0.0.1", 3)
    hosts.write_text(f"127.0.0.1 localhost\n127.0.0.2 {NAME}\n", encoding="ascii")
    server = ShardServer(CONFIG, SHAPE, 0, first_port, directory)
    address = Address("127.0.0.2", port, first_port)
    batches: queue.Queue[Items] = queue.Queue(maxsize=1)
    sampler = ShardSampler(f"{NAME}:{port}", 0, SHAPE, 4, into(batches))
    sampler.start()
    probe = ShardProbe(f"{NAME}:{port}", 0)
    probe.start()
    writer = EpisodeWriter([f"{NAME}:{port}"], SHAPE)
    writer.begin(0, np.zeros((1, 2), np.float32), actor=0, incarnation=1, env=0)
    insert(writer, 20)
    assert batches.get(timeout=60).table_size
    server.checkpoint()
    address.close()
    server.stop()
    print("the pod is gone", flush=True)
    while probe.is_up:
        time.sleep(0.1)
    moved = time.monotonic()
    server = ShardServer(CONFIG, SHAPE, 0, second_port, directory)
    address = Address("127.0.0.3", port, second_port)
    hosts.write_text(f"127.0.0.1 localhost\n127.0.0.3 {NAME}\n", encoding="ascii")
    inserted = server.info().inserted
    assert probe.wait_up(60)
    if role == "actor":
        insert(writer, 10)
        assert server.info().inserted >= inserted + 9
        print(f"the actor's items have arrived {time.monotonic() - moved:.1f} s after the move", flush=True)
        return
    while not batches.empty():
        batches.get_nowait()
    sampled = server.info().sampled
    batch = batches.get(timeout=60)
    while server.info().sampled == sampled:
        batch = batches.get(timeout=60)
    print(f"the learner has a batch {time.monotonic() - moved:.1f} s after the move", flush=True)
    sampler.update_priorities(batch, np.full(4, 1000.0))
    deadline = time.monotonic() + 60
    while max(batches.get(timeout=60).probability) < 0.2:  # four of twenty-odd items, all of the same priority before
        assert time.monotonic() < deadline, "no priority arrived"
    print(f"a priority has arrived {time.monotonic() - moved:.1f} s after the move", flush=True)


def insert(writer: EpisodeWriter, count: int) -> None:
    for t in range(count):
        writer.append(Transition(0, 1.0, False, np.full(2, t, np.float32), 1))
    deadline = time.monotonic() + 90
    while True:
        try:
            writer.flush(0, 1.0)
            return
        except BlockedError:
            assert time.monotonic() < deadline, "the items were not confirmed"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    sys.stdout.flush()
    os._exit(0)  # native threads that wait for a dead server would abort the interpreter's own shutdown

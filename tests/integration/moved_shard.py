"""A learner or an actor of a shard whose name gets another address; test_moved_shard.py runs it.

`python -m tests.integration.moved_shard HOSTS DIRECTORY ROLE`: HOSTS is the system's /etc/hosts, ROLE is learner or actor.
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

from actors.segment_stream import SegmentStream
from sbrl.config import load
from sbrl.envs.spec import EnvSpec
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import Segment, SegmentShape, Stream, Transition
from sbrl.replay.shard import ShardServer
from sbrl.rpc.ports import free_ports

NAME = "replay-0.replay.test"
SPEC = EnvSpec(2, (2,), np.dtype(np.float32), 1, "vector", clip_rewards=False)
CONFIG = load(overrides=["env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "agent.n_step=1", "agent.n_max=1"])
SHAPE = SegmentShape.of(SPEC, CONFIG.agent.stored_steps)


class Address:
    """A TCP port on a loopback address that forwards to a server. Closing it cuts every connection, like a pod's end."""

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
    server = ShardServer(CONFIG, SPEC, 0, "cached", first_port, directory)
    address = Address("127.0.0.2", port, first_port)
    segments: queue.Queue[Segment] = queue.Queue()
    reader = SegmentReader(f"{NAME}:{port}", 0, SHAPE, lambda shard, segment: segments.put(segment))
    reader.start()
    stream = make_stream(f"{NAME}:{port}", 1)
    write(stream, 2)
    assert segments.get(timeout=60).first == 0
    server.checkpoint()
    address.close()
    server.stop()
    print("the pod is gone", flush=True)
    while reader.is_up:
        time.sleep(0.1)
    moved = time.monotonic()
    server = ShardServer(CONFIG, SPEC, 0, "cached", second_port, directory)
    address = Address("127.0.0.3", port, second_port)
    hosts.write_text(f"127.0.0.1 localhost\n127.0.0.3 {NAME}\n", encoding="ascii")
    while not segments.empty():
        segments.get_nowait()
    if role == "learner":  # write through the new address directly
        stream = make_stream(f"127.0.0.1:{second_port}", 2)
    inserted = server.info().inserted
    write(stream, 4)
    while server.info().inserted < inserted + 2:
        assert time.monotonic() - moved < 90, "the actor's segments have not arrived"
        time.sleep(0.1)
    print(f"the actor's segments have arrived {time.monotonic() - moved:.1f} s after the move", flush=True)
    while segments.get(timeout=90).of.incarnation != (2 if role == "learner" else 1):
        pass
    print(f"the learner has a segment {time.monotonic() - moved:.1f} s after the move", flush=True)


def make_stream(address: str, incarnation: int) -> SegmentStream:
    probe = QueueProbe(address, 0)
    probe.start()
    writer = SegmentWriter([address], SHAPE, age=lambda: 0)
    first = Stream(0, incarnation, 0, 0)
    stream = SegmentStream(writer, SHAPE, [probe], first, preferred=0, stop=threading.Event(), drain_seconds=60.0)
    stream.begin(np.zeros((1, 2), np.float32))
    return stream


def write(stream: SegmentStream, segments: int) -> None:
    for t in range(segments * SHAPE.steps + SHAPE.n_max):
        frame = np.full(2, t, np.float32)
        stream.append(Transition(0, 1.0, False, frame, 1), frame[None])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    sys.stdout.flush()
    os._exit(0)  # native threads that wait for a dead server would abort a normal interpreter shutdown

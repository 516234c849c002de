"""The coordinator's gRPC services, over the wire, with messages that have wrong fields, bytes or order."""

from __future__ import annotations

import itertools
import logging
import random
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import torch
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from prometheus_client import generate_latest
from safetensors.torch import save

from sbrl import config as configs
from sbrl.coordination.fleet import FleetClient
from sbrl.telemetry.metrics import CoordinatorMetrics, make_registry
from sbrl.v1 import episodes_pb2, fleet_pb2, weights_pb2
from services.coordinator.server import Coordinator
from tests.fuzz.crew import CALL_SECONDS, NAMES, Crew
from tests.fuzz.mutations import NUMBERS, mutated_bytes, mutated_message
from tests.fuzz.target import Refusal

CONFIG = configs.load(overrides=["env.id=CartPole-v1", "run.env_steps=100000"])
FILES = (weights_pb2, fleet_pb2, episodes_pb2)
# Statuses with which a service may refuse. Anything else (UNKNOWN, an exception in its code) is a failure.
REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # longer than 4 MB
    }
)
# gRPC's own answer to bytes that are not a message. They do not reach our code.
NO_MESSAGE = "Exception deserializing request!"
PUBLISH = "/sbrl.v1.Weights/Publish"
# The counters that the coordinator knows.
COUNTERS = (
    *(
        "env_steps",
        "frames",
        "episodes_cut",
        "transitions_confirmed",
        "transitions_dropped.shard_lost",
        "updates",
        "samples_trained",
        "losses_not_finite",
    ),
)
COUNTS = (0.0, 1.0, 0.5, 60.0, 150.0, 1000.0, 2.0**53)
GAUGES = ("loss", "transitions", "queue_segments")
# Relative frequency of a method; 1 for all others.
TIMES = {"Heartbeat": 6, "Leave": 4, "Join": 3, "GetStatus": 2}


class Errors(logging.Handler):
    """Keeps the log records that carry a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or "Traceback" in record.getMessage():
            self.tracebacks.append(logging.Formatter().format(record))


class ServiceTarget:
    """One service of a real coordinator. An input is a method's number and its messages, each after its length."""

    def __init__(self, service: ServiceDescriptor, folder: Path) -> None:
        self.name = f"gRPC {service.full_name}"
        self._methods: Sequence[MethodDescriptor] = list(service.methods)
        self._directory = folder / service.name
        self._errors = Errors()
        logging.getLogger().addHandler(self._errors)
        self._start()

    def make(self, chance: random.Random) -> bytes:
        number = chance.choice([k for k, one in enumerate(self._methods) for _ in range(TIMES.get(one.name, 1))])
        method = self._methods[number]
        if method.full_name == "sbrl.v1.Weights.Publish" and chance.random() < 0.8:
            messages = self._publication(chance)
        else:
            messages = [self._message(chance, method)]
            if method.client_streaming:
                messages *= chance.choice([0, 1, 2, 5])
        return bytes([number]) + b"".join(struct.pack("<I", len(message)) + message for message in messages)

    def feed(self, data: bytes) -> None:
        method, messages = self._methods[data[0]], list(_messages(data[1:]))
        path = f"/{method.containing_service.full_name}/{method.name}"
        seen = len(self._errors.tracebacks)
        try:
            self._call(path, method, messages)
        except grpc.RpcError as error:
            if error.code() in REFUSALS or (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, NO_MESSAGE):
                raise Refusal(f"{error.code().name}: {error.details()}") from None
            raise
        finally:
            assert len(self._errors.tracebacks) == seen, self._errors.tracebacks[-1]
            self._crew.go_on()
            generate_latest(self._registry)

    def check(self) -> None:
        """Checks that it answers, also after a restart, and stops it."""
        self._stop()
        self._start()
        self._crew.go_on()
        generate_latest(self._registry)
        self._stop()
        logging.getLogger().removeHandler(self._errors)

    def _start(self) -> None:
        self._registry = make_registry("coordinator")
        metrics = CoordinatorMetrics(self._registry)
        self._coordinator = Coordinator(self._directory, metrics, lambda before: CONFIG)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self._coordinator.start('127.0.0.1', 0)}")
        self._crew = Crew(self._channel)

    def _stop(self) -> None:
        self._channel.close()
        self._coordinator.stop(1.0)

    def _call(self, path: str, method: MethodDescriptor, messages: list[bytes]) -> None:
        if method.client_streaming:
            self._channel.stream_unary(path)(iter(messages), timeout=CALL_SECONDS)
        elif method.server_streaming:
            # Not all of a long answer: a server must cope with a reader that goes away.
            call = self._channel.unary_stream(path)(messages[0], timeout=CALL_SECONDS)
            for _ in itertools.islice(call, 3):
                pass
            call.cancel()
        else:
            self._channel.unary_unary(path)(messages[0], timeout=CALL_SECONDS)

    def _message(self, chance: random.Random, method: MethodDescriptor) -> bytes:
        message = self._right(chance, method)
        if chance.random() < 0.6:
            message = mutated_message(chance, message)
        serialized = message.SerializeToString()
        return serialized if chance.random() < 0.6 else mutated_bytes(chance, [serialized])

    def _right(self, chance: random.Random, method: MethodDescriptor) -> Message:
        """A correct request, as far as a member can make one."""
        message: Message = message_factory.GetMessageClass(method.input_type)()
        crew, name = self._crew, chance.choice(NAMES)
        match message:
            case fleet_pb2.JoinRequest():
                message.role, message.name = chance.choice(["actor", "replay"]), f"fuzz-{chance.randrange(20)}"
            case fleet_pb2.HeartbeatRequest():
                _set_heartbeat(chance, message, crew, name)
            case episodes_pb2.AppendEpisodesRequest():
                message.episodes.add(incarnation=chance.randrange(9), number=chance.randrange(99), length=3)
        return message

    def _publication(self, chance: random.Random) -> list[bytes]:
        """Weights with an error in them, often with a matching checksum."""
        data = save({"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.zeros(3)})
        if chance.random() < 0.7:
            data = mutated_bytes(chance, [data])
        term = chance.choice([0, 1, 1, 1, 2])
        header = weights_pb2.WeightsHeader(term=term, updates=5, size_bytes=len(data), crc32=zlib.crc32(data))
        if chance.random() < 0.3:
            header = mutated_message(chance, header)
        parts = [
            weights_pb2.PublishRequest(header=header),
            *(weights_pb2.PublishRequest(chunk=data[k : k + 64]) for k in range(0, len(data), 64)),
        ]
        if chance.random() < 0.2:
            chance.shuffle(parts)
        return [part.SerializeToString() for part in parts]


class PortTarget:
    """The coordinator's port itself: connections that speak another protocol, or stop in the middle of a message."""

    name = "gRPC port"
    _PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

    def __init__(self, folder: Path) -> None:
        self._coordinator = Coordinator(
            folder / "port", CoordinatorMetrics(make_registry("coordinator")), lambda before: CONFIG
        )
        self._port = self._coordinator.start("127.0.0.1", 0)

    def make(self, chance: random.Random) -> bytes:
        return mutated_bytes(chance, [self._PREFACE, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", self._PREFACE * 20])

    def feed(self, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=CALL_SECONDS) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def check(self) -> None:
        client = FleetClient(f"127.0.0.1:{self._port}")
        client.status()
        client.close()
        self._coordinator.stop(1.0)


def services(folder: Path) -> Iterator[Any]:
    """Every service of protos/, and the port that they are on."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield ServiceTarget(service, folder)
    yield PortTarget(folder)


def _set_heartbeat(chance: random.Random, message: fleet_pb2.HeartbeatRequest, crew: Crew, name: str) -> None:
    """Fills in a member's heartbeat, or one under its name: its own counts, sometimes with impossible ones."""
    message.incarnation, message.died = crew.incarnations[name], chance.random() < 0.2
    message.role, _, _ = name.partition("-")
    message.name, message.step_limit, message.term = name, chance.choice([0, 200]), chance.choice([0, 0, 0, 1])
    for counter, count in crew.counters(name).items():
        message.counters[counter] = count
    for gauge, reading in crew.gauges(name).items():
        message.gauges[gauge] = reading
    if message.role == "learner" or chance.random() < 0.1:
        message.progress.CopyFrom(crew.progress())
    for counter in chance.sample(COUNTERS, chance.choice([0, 0, 1, 2, 4])):
        message.counters[counter] = chance.choice(COUNTS)
    for gauge in chance.sample(GAUGES, chance.randrange(len(GAUGES) + 1)):
        message.gauges[gauge] = chance.choice(NUMBERS)


def _messages(data: bytes) -> Iterator[bytes]:
    while data:
        (size,) = struct.unpack("<I", data[:4])
        yield data[4 : 4 + size]
        data = data[4 + size :]

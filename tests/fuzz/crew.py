"""The members of a small run, who go on with their work between wrong inputs: what is right must be answered all the while."""

from __future__ import annotations

import math

import grpc
from sbrl.ratio_books import INSERTED, TRAINED, by_shard
from services.coordinator.books import Plan

from sbrl.v1 import fleet_pb2
from sbrl.v1.fleet_pb2_grpc import FleetStub

CALL_SECONDS = 10.0
SHARDS, SAMPLES_PER_INSERT = 2, 2
PLAN = Plan(float(SAMPLES_PER_INSERT), (50,) * SHARDS, generation_seconds=0.05, keep_generations=2)
SHARD_NAMES = tuple(f"replay-{shard}" for shard in range(SHARDS))
SAVERS = ("learner-0", *SHARD_NAMES)  # whose checkpoints make a generation
NAMES = ("actor-0", *SAVERS, "evaluator-0")
DIGEST = "ab" * 32
ORDER_TURNS = 15  # between two generations where none is due by itself, for the run has collected all its steps, say


class Crew:
    """One member of each role, and a second shard. Whoever has lost its lease joins again."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Joins with all."""
        self._stub = FleetStub(channel)
        self._turns = 0
        self._work: dict[str, int] = {}  # transitions that each has handled in its present incarnation
        self.incarnations: dict[str, int] = {}
        self.status = fleet_pb2.GetStatusResponse()
        self.go_on()

    def go_on(self) -> None:
        """The run's next moment: its owner looks, and one member after the other beats, and saves where that is wanted.

        Raises:
            grpc.RpcError: one of them was refused.
            AssertionError: it was told what it cannot use.
        """
        self.status = self._stub.GetStatus(fleet_pb2.GetStatusRequest(), timeout=CALL_SECONDS)
        held = {member.incarnation for member in self.status.members if member.alive}
        for name in NAMES:
            if self.incarnations.get(name) not in held:
                self._join(name)
        if self._turns % ORDER_TURNS == ORDER_TURNS - 1:
            self._stub.OrderGeneration(fleet_pb2.OrderGenerationRequest(), timeout=CALL_SECONDS)
        name = NAMES[self._turns % len(NAMES)]
        self._turns += 1
        self._work[name] += 20
        request = fleet_pb2.BeatRequest(
            incarnation=self.incarnations[name], counters=self.counters(name), gauges=self.gauges(name)
        )
        instructions = self._stub.Beat(request, timeout=CALL_SECONDS)
        _check(instructions)
        if instructions.checkpoint_wanted:
            self._stub.ReportCheckpoint(self.report(name, instructions.generation), timeout=CALL_SECONDS)

    def counters(self, name: str) -> dict[str, float]:
        """What a member has counted, evenly over the shards."""
        role, _, index = name.partition("-")
        work = self._work[name]
        half = float(work // SHARDS)
        if role == "actor":
            parts = {by_shard(INSERTED, shard): half for shard in range(SHARDS)}
            return {"env_steps": work, "transitions_collected": work, INSERTED: work, "frames": 4 * work, **parts}
        if role == "learner":
            parts = {by_shard(TRAINED, shard): half * SAMPLES_PER_INSERT for shard in range(SHARDS)}
            samples = float(work * SAMPLES_PER_INSERT)
            return {"updates": work / 4, TRAINED: samples, "samples_served": samples, **parts}
        return {INSERTED: half, by_shard(INSERTED, int(index)): half} if role == "replay" else {"evaluations": 1.0}

    def gauges(self, name: str) -> dict[str, float]:
        """A learner that holds still every other time, and shards that count nothing as owed: they are told what is."""
        if name in SHARD_NAMES:
            return {"samples_owed": 0.0}
        return {"max_priority": 1.5, "settling": float(self._turns % 2)} if name == "learner-0" else {}

    def report(self, name: str, generation: int) -> fleet_pb2.ReportCheckpointRequest:
        """Of a checkpoint that holds all that its member has counted."""
        return fleet_pb2.ReportCheckpointRequest(
            incarnation=self.incarnations[name],
            generation=generation,
            checkpoint=f"{name}-{generation}",
            size_bytes=1000,
            sha256=DIGEST,
            counters=self.counters(name),
        )

    def _join(self, name: str) -> None:
        role, _, index = name.partition("-")
        answer = self._stub.Join(fleet_pb2.JoinRequest(role=role, name=name, index=int(index)), timeout=CALL_SECONDS)
        _check(answer.instructions)
        self.incarnations[name], self._work[name] = answer.incarnation, 0


def _check(instructions: fleet_pb2.BeatResponse) -> None:
    assert math.isfinite(instructions.samples_owed), instructions
    assert math.isfinite(instructions.limiter_correction), instructions
    assert 1.0 <= instructions.initial_priority < math.inf, instructions

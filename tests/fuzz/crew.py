"""The members of a small run, which keep working between wrong inputs: correct requests must always be answered."""

from __future__ import annotations

import math

import grpc

from sbrl.v1 import fleet_pb2
from sbrl.v1.fleet_pb2_grpc import FleetStub

CALL_SECONDS = 10.0
SHARDS, SAMPLES_PER_INSERT = 2, 2
NAMES = ("actor-0", "learner-0", *(f"replay-{shard}" for shard in range(SHARDS)), "evaluator-0")


class Crew:
    """One member of each role, and a second shard. A member that has lost its lease joins again."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Joins with all members."""
        self._stub = FleetStub(channel)
        self._turns = 0
        self._work: dict[str, int] = {}  # transitions handled by each member in its present incarnation
        self.incarnations: dict[str, int] = {}
        self.status = fleet_pb2.GetStatusResponse()
        self.go_on()

    def go_on(self) -> None:
        """Advances the run: its owner asks for the status, and each member sends a heartbeat.

        Raises:
            grpc.RpcError: one of them was refused.
            AssertionError: a member got an answer that it cannot use.
        """
        self.status = self._stub.GetStatus(fleet_pb2.GetStatusRequest(), timeout=CALL_SECONDS)
        held = {member.incarnation for member in self.status.members if member.alive}
        for name in NAMES:
            if self.incarnations.get(name) not in held:
                self._join(name)
        name = NAMES[self._turns % len(NAMES)]
        self._turns += 1
        self._work[name] += 20
        request = fleet_pb2.HeartbeatRequest(
            incarnation=self.incarnations[name], counters=self.counters(name), gauges=self.gauges(name)
        )
        if name == "learner-0":
            request.progress.CopyFrom(self.progress())
        _check(self._stub.Heartbeat(request, timeout=CALL_SECONDS))

    def counters(self, name: str) -> dict[str, float]:
        """A member's counters."""
        work = float(self._work[name])
        match name.partition("-")[0]:
            case "actor":
                return {"env_steps": work, "transitions_confirmed": work, "frames": 4 * work}
            case "learner":
                return {"updates": work / 4, "samples_trained": work * SAMPLES_PER_INSERT}
            case "replay":
                return {"segments_inserted": work / 32}
            case _:
                return {"evaluations": 1.0}

    def gauges(self, name: str) -> dict[str, float]:
        return {"loss": 0.5} if name == "learner-0" else {}

    def progress(self) -> fleet_pb2.LearnerProgress:
        """The progress of a learner that has received everything, evenly from the shards."""
        work = self._work["learner-0"]
        return fleet_pb2.LearnerProgress(
            updates=work // 4,
            samples_trained=work * SAMPLES_PER_INSERT,
            samples_due=float(work * SAMPLES_PER_INSERT),
            max_priority=1.5,
            shards=[fleet_pb2.ShardProgress(received=work // SHARDS, answers=True) for _ in range(SHARDS)],
            state=fleet_pb2.LEARNER_STATE_TRAINING,
            memory_transitions=work,
            memory_capacity=1000,
            sampling=fleet_pb2.SAMPLING_CACHED,
        )

    def _join(self, name: str) -> None:
        role, _, index = name.partition("-")
        request = fleet_pb2.JoinRequest(role=role, name=name, index=int(index), process="crew")
        answer = self._stub.Join(request, timeout=CALL_SECONDS)
        if answer.holder:  # an input has taken the name; its sender is gone
            request.replaces = answer.holder_incarnation
            answer = self._stub.Join(request, timeout=CALL_SECONDS)
        _check(answer.instructions)
        self.incarnations[name], self._work[name] = answer.incarnation, 0


def _check(instructions: fleet_pb2.HeartbeatResponse) -> None:
    assert 1.0 <= instructions.initial_priority < math.inf, instructions

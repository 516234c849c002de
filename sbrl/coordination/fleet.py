"""The fleet's roles and instructions, the state of the run, and the run owner's requests: status, finish."""

from __future__ import annotations

import enum
from typing import NamedTuple, Self

from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc

CALL_SECONDS = 5.0
ROLES = ("replay", "coordinator", "actor", "learner", "evaluator")
STEPS_COUNTER = "env_steps"
CUT_COUNTER = "episodes_cut"  # each costs one step, the one with the bad value: it is not a transition


class RunState(enum.IntEnum):
    """The state of the run. The values are those of sbrl.v1.RunState."""

    RUNNING = fleet_pb2.RUN_STATE_RUNNING
    COLLECTED = fleet_pb2.RUN_STATE_COLLECTED
    FINISHED = fleet_pb2.RUN_STATE_FINISHED

    @property
    def wire_name(self) -> str:
        """The value's name in sbrl.v1.RunState, which messages accept in place of the value."""
        return f"RUN_STATE_{self.name}"


SAMPLING_NAMES = {
    fleet_pb2.SAMPLING_UNSPECIFIED: "",
    fleet_pb2.SAMPLING_CACHED: "cached",
    fleet_pb2.SAMPLING_REMOTE: "remote",
}


class Instructions(NamedTuple):
    """The coordinator's newest answer to a heartbeat."""

    state: RunState
    env_steps: int  # of the whole run as reported so far, for the epsilon schedule
    step_allowance: int  # actors: further steps, beyond those that the heartbeat reported
    step_limit: int  # actors: step while the process's own env_steps counter is below this
    initial_priority: float = 1.0  # actors: priority of new items, with remote sampling
    sampling: str = ""  # "cached" or "remote"; empty until the learner has chosen
    ended_actors: tuple[tuple[int, int], ...] = ()  # learners: (incarnation, transitions) of actors that are gone

    @classmethod
    def of(cls, response: fleet_pb2.HeartbeatResponse, step_base: float) -> Self:
        """Reads an answer. Args: step_base: env_steps counted under earlier leases and in the heartbeat."""
        return cls(
            state=RunState(response.state),
            env_steps=response.env_steps,
            step_allowance=response.step_allowance,
            step_limit=int(step_base) + response.step_allowance,
            initial_priority=response.initial_priority,
            sampling=SAMPLING_NAMES[response.sampling],
            ended_actors=tuple((actor.incarnation, actor.transitions) for actor in response.ended_actors),
        )


class FleetClient:
    """The run owner's requests to the fleet: its status, and to finish."""

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        """Args: credentials: None takes those of the process's environment."""
        self._address = address
        self._channel = channels.open_channel(address, credentials)
        self._stub = fleet_pb2_grpc.FleetStub(self._channel)

    def status(self, timeout: float = CALL_SECONDS, wait: bool = False) -> fleet_pb2.GetStatusResponse:
        """Members, totals and state of the run.

        Args:
            wait: whether to wait for an absent coordinator, within `timeout`.

        Raises:
            CoordinatorUnavailable: no answer within `timeout` seconds.
        """
        with channels.coordinator_errors(self._address):
            response: fleet_pb2.GetStatusResponse = self._stub.GetStatus(
                fleet_pb2.GetStatusRequest(), timeout=timeout, wait_for_ready=wait
            )
        return response

    def finish(self, timeout: float = CALL_SECONDS) -> None:
        """Ends the run: each member's next heartbeat says FINISHED.

        Raises:
            CoordinatorUnavailable: no answer within `timeout` seconds; calling again is harmless.
        """
        with channels.coordinator_errors(self._address):
            self._stub.Finish(fleet_pb2.FinishRequest(), timeout=timeout)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

"""What networks, replay and actors need to know about an environment, without making one."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class EnvSpec(NamedTuple):
    """Shapes and kind of an environment. An observation is always laid out [stack, *frame_shape]."""

    num_actions: int
    frame_shape: tuple[int, ...]  # frames: (84, 84); grid: (channels, height, width); vector: (features,)
    frame_dtype: np.dtype[Any]  # uint8 for frames (0 to 255) and grids (0 or 1), float32 for vectors
    stack: int  # frames an agent sees at once, oldest first; 1 if frames are not stacked
    kind: Literal["frames", "grid", "vector"]
    clip_rewards: bool  # whether the learner clips rewards to [-1, 1]

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation, without a batch dimension: [stack, *frame_shape]."""
        return (self.stack, *self.frame_shape)

    def to_plain(self) -> dict[str, Any]:
        """The spec as plain data, for JSON and YAML."""
        return {**self._asdict(), "frame_shape": list(self.frame_shape), "frame_dtype": self.frame_dtype.name}

    @classmethod
    def of_plain(cls, plain: Any) -> Self:
        """
        Raises:
            TypeError, ValueError: `plain` is not a result of `to_plain`.
        """
        spec = cls(**plain)
        return spec._replace(frame_shape=tuple(spec.frame_shape), frame_dtype=np.dtype(spec.frame_dtype))


class StepResult(NamedTuple):
    """The result of one step of E environments."""

    observation: NDArray[Any]  # frame_dtype[E, stack, *frame_shape]; at an episode's end, its last observation
    reward: NDArray[np.float32]  # [E], unclipped
    terminated: NDArray[np.bool_]  # [E], the environment reached a terminal state
    truncated: NDArray[np.bool_]  # [E], the episode was cut off
    life_lost: NDArray[np.bool_]  # [E], a terminal state for the learner only; all False unless env.terminal_on_life_loss
    # [E], the environment returned a bad value. The fields above do not count for it, and the episode is over. Only with
    # env.on_bad_value=drop_episode; otherwise a bad value is an error.
    bad: NDArray[np.bool_]


class VectorEnv(Protocol):
    """E environments stepped together, without automatic resets: the caller sees every episode's last observation."""

    @property
    def spec(self) -> EnvSpec: ...
    @property
    def num_envs(self) -> int: ...

    def reset(self, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Starts new episodes where `mask` (bool[E]; None: everywhere) is set and returns all observations.

        Only environments that are new or whose episode has ended may be reset. Raises as `step` does.
        """
        ...

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Takes actions int64[E]. The caller owns the returned arrays: later steps do not change them.

        Raises:
            FinalError: the environment returned a bad value; the message names the environment, the value and the step.
        """
        ...

    def close(self) -> None: ...

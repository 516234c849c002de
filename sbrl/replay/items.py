"""Single transitions for remote sampling: the contents of an item, and how a batch becomes n-step transitions.

Pure NumPy.

An item is a window over the rows of a stream (see `sbrl.replay.segments`), with one row per step:

    row:      t-stack+1 ... t-1   t   t+1  ...  t+n_max
    frame:    [................................]           stack + n_max frames
    action:                     [.............]            n_max, from t on
    reward:                     [.............]            reward[k] follows action[k]
    discount:                   [.............]            0 where that step ended in a terminal state, else 1
    meta:                       [.]                        who wrote it, when, with which weights

The row of an episode's last observation has the action PADDING. Later rows belong to another episode or to none. So the valid
steps of a window are the steps before its first PADDING. If an episode was truncated, the discount stays 1 and the valid steps
end early. The learner then bootstraps from the last observation after fewer than n steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbrl.envs.spec import EnvSpec
from sbrl.replay.segments import PADDING, SegmentShape

TABLE = "transitions"

# Who wrote the item. `step` counts all steps of one environment of an incarnation, so the first four fields identify an item.
META_FIELDS = ("actor", "incarnation", "env", "step", "weights_version")


class ItemShape(NamedTuple):
    """Shapes and dtypes of an item's columns."""

    stack: int
    n_max: int
    frame_shape: tuple[int, ...]
    frame_dtype: np.dtype[Any]

    @classmethod
    def of(cls, spec: EnvSpec, n_max: int) -> ItemShape:
        return cls(spec.stack, n_max, spec.frame_shape, np.dtype(spec.frame_dtype))

    @classmethod
    def of_segments(cls, shape: SegmentShape) -> ItemShape:
        """The shape of items from a stream with segments of this shape."""
        return cls(shape.stack, shape.n_max, shape.frame_shape, shape.frame_dtype)

    @property
    def num_frames(self) -> int:
        return self.stack + self.n_max

    def columns(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Column name -> (shape, dtype) of an item."""
        return {
            "frame": ((self.num_frames, *self.frame_shape), self.frame_dtype),
            "action": ((self.n_max,), np.dtype(np.int32)),
            "reward": ((self.n_max,), np.dtype(np.float32)),
            "discount": ((self.n_max,), np.dtype(np.float32)),
            "meta": ((1, len(META_FIELDS)), np.dtype(np.int64)),
        }


class Items(NamedTuple):
    """A batch of items from one shard."""

    frame: NDArray[Any]  # frame_dtype[B, stack + n_max, *frame_shape]
    action: NDArray[np.int32]  # [B, n_max]
    reward: NDArray[np.float32]  # [B, n_max]
    discount: NDArray[np.float32]  # [B, n_max], before the discount factor
    meta: NDArray[np.int64]  # [B, 1, len(META_FIELDS)]
    key: NDArray[np.uint64]  # [B], unique within the shard
    probability: NDArray[np.float64]  # [B], of being sampled from the shard
    shard: int

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[Any]], **info: Any) -> Items:
        """Args: columns: an item's columns by name; info: the other fields."""
        return cls(
            frame=columns["frame"],
            action=columns["action"],
            reward=columns["reward"],
            discount=columns["discount"],
            meta=columns["meta"],
            **info,
        )


def weights_versions(items: Items) -> NDArray[np.int64]:
    """[B], the version of the weights that each item was collected with."""
    return items.meta[:, 0, META_FIELDS.index("weights_version")]


class Transitions(NamedTuple):
    """n-step transitions, ready for the update."""

    s_tm1: NDArray[Any]  # frame_dtype[B, stack, *frame_shape]
    a_tm1: NDArray[np.int64]  # [B]
    r_t: NDArray[np.float32]  # [B], sum over k < m of gamma^k r_k
    discount_t: NDArray[np.float32]  # [B], gamma^m, or 0 if the window contains a terminal state
    s_t: NDArray[Any]  # frame_dtype[B, stack, *frame_shape], m steps later


def n_step_transitions(items: Items, stack: int, n_step: int, discount: float) -> Transitions:
    """Sums the first m = min(n_step, valid steps) rewards of every item.

        r_t        = sum_{k<m} gamma^k (prod_{j<k} d_j) r_k
        discount_t = gamma^m prod_{j<m} d_j
        s_t        = the stack m steps after s_tm1

    Args:
        items: a batch of items with n_max >= n_step.
        stack: frames in an observation.
        n_step: steps to sum, at most n_max.
        discount: gamma, the discount factor of one step.
    """
    batch = np.arange(len(items.action))
    # The first step is always valid. Everything after the first invalid one belongs to another episode.
    valid = np.logical_and.accumulate(items.action[:, :n_step] != PADDING, axis=1)
    steps = valid.sum(axis=1)
    alive_after = np.cumprod(np.where(valid, items.discount[:, :n_step], 1.0), axis=1)
    alive_before = np.concatenate([np.ones((len(batch), 1)), alive_after[:, :-1]], axis=1)
    powers = discount ** np.arange(n_step)
    r_t = (powers * alive_before * items.reward[:, :n_step] * valid).sum(axis=1)
    discount_t = discount**steps * alive_after[:, -1]
    later = steps[:, None] + np.arange(stack)[None, :]
    return Transitions(
        s_tm1=items.frame[:, :stack],
        a_tm1=items.action[:, 0].astype(np.int64),
        r_t=r_t.astype(np.float32),
        discount_t=discount_t.astype(np.float32),
        s_t=items.frame[batch[:, None], later],
    )


class FutureSequence(NamedTuple):
    """The steps after the first observation of each item, for self-prediction."""

    observation: NDArray[Any]  # frame_dtype[B, K, stack, *frame_shape], 1 .. K steps later
    action: NDArray[np.int64]  # [B, K], taken at steps 0 .. K-1; 0 where not valid
    valid: NDArray[np.bool_]  # [B, K], the episode went on to that observation


def future_sequence(items: Items, stack: int, jumps: int) -> FutureSequence:
    """The observations 1 .. `jumps` steps after each item's first, with the actions that led there.

    An observation is valid if all steps up to it were taken and none of them ended in a terminal state. After a terminal state
    an item holds the next life, or padding. The last observation of a truncated episode is valid.

    Args:
        items: a batch of items with n_max >= jumps.
        stack: frames in an observation.
        jumps: K.
    """
    taken = items.action[:, :jumps] != PADDING
    valid = np.logical_and.accumulate(taken & (items.discount[:, :jumps] != 0), axis=1)
    windows = np.arange(1, jumps + 1)[:, None] + np.arange(stack)[None, :]
    return FutureSequence(
        observation=items.frame[:, windows],
        action=np.where(valid, items.action[:, :jumps], 0).astype(np.int64),
        valid=valid,
    )

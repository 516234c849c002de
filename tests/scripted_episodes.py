"""Episodes with unique frames and rewards, and their transitions according to a plain reference.

The reference uses neither windows nor rows. It walks on from each step, as in the definition of an n-step return.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbrl.replay.items import Items, Transitions
from sbrl.replay.segments import PADDING

NUM_ACTIONS = 18
LONGEST = 99  # most steps of an episode, so that frames are unique


class Episode(NamedTuple):
    """One episode. Its frames are numbered: `frame(t)` is the newest one of the observation before step t."""

    number: int  # from 1
    terminal: tuple[bool, ...]  # [length], whether each step led to a terminal state; False for the last if truncated
    ends: tuple[int, ...]  # steps after which a window must end: the ends of pieces of the episode, the last one its own

    @property
    def length(self) -> int:
        return len(self.terminal)

    def frame(self, t: int) -> int:
        """The number of a frame: positive from the first observation to the last; zero before."""
        return 100 * self.number + t if t >= 0 else 0

    def reward(self, t: int) -> float:
        return 0.5 + self.frame(t)

    def action(self, t: int) -> int:
        return action_at(self.frame(t))

    def observation(self, t: int, stack: int) -> list[int]:
        """The frames seen before step t, oldest first."""
        return [self.frame(k) for k in range(t - stack + 1, t + 1)]


def action_at(frame: int) -> int:
    """The scripted agent's action when this is the newest frame."""
    return frame % NUM_ACTIONS


class Expected(NamedTuple):
    """A transition as the reference computes it."""

    s_tm1: list[int]
    a_tm1: int
    r_t: float
    discount_t: float
    s_t: list[int]


def reference(episode: Episode, stack: int, n_step: int, discount: float) -> list[Expected]:
    """Every transition of an episode, in order."""
    transitions = []
    for start in range(episode.length):
        r_t, discount_t, t = 0.0, 1.0, start
        while t < start + n_step:
            r_t += discount_t * episode.reward(t)
            discount_t = 0.0 if episode.terminal[t] else discount_t * discount
            t += 1
            if discount_t == 0.0 or t in episode.ends:
                break
        observations = episode.observation(start, stack), episode.observation(t, stack)
        transitions.append(Expected(observations[0], episode.action(start), r_t, discount_t, observations[1]))
    return transitions


def columns_by_definition(episode: Episode, stack: int, n_max: int) -> list[dict[str, list[Any]]]:
    """The columns of every item of an episode, as in the docstring of sbrl.replay.items, with frames by number."""
    items: list[dict[str, list[Any]]] = []
    for start in range(episode.length):
        end = min(end for end in episode.ends if end > start)
        steps = range(start, start + n_max)
        items.append(
            {
                "frame": episode.observation(start, stack) + [episode.frame(t + 1) if t < end else 0 for t in steps],
                "action": [episode.action(t) if t < end else PADDING for t in steps],
                "reward": [episode.reward(t) if t < end else 0.0 for t in steps],
                "discount": [float(t < end and not episode.terminal[t]) for t in steps],
            }
        )
    return items


def items_by_definition(episodes: Sequence[Episode], stack: int, n_max: int) -> Items:
    """A batch of all items of the episodes, in order, in the form in which a shard serves them."""
    rows = [row for episode in episodes for row in columns_by_definition(episode, stack, n_max)]
    size = len(rows)
    return Items(
        frame=np.array([[frame_of(number) for number in row["frame"]] for row in rows]),
        action=np.array([row["action"] for row in rows], np.int32),
        reward=np.array([row["reward"] for row in rows], np.float32),
        discount=np.array([row["discount"] for row in rows], np.float32),
        meta=np.zeros((size, 1, 5), np.int64),
        key=np.arange(size, dtype=np.uint64),
        probability=np.full(size, 1 / size),
        shard=0,
    )


def check(got: Transitions, expected: Sequence[Expected]) -> None:
    """Asserts that the transitions are the expected ones, in this order. s_t is ignored if it is terminal."""
    assert len(got.a_tm1) == len(expected)
    np.testing.assert_array_equal(numbers_of(got.s_tm1), [wanted.s_tm1 for wanted in expected])
    np.testing.assert_array_equal(got.a_tm1, [wanted.a_tm1 for wanted in expected])
    np.testing.assert_allclose(got.r_t, [wanted.r_t for wanted in expected], rtol=1e-6)
    np.testing.assert_allclose(got.discount_t, [wanted.discount_t for wanted in expected], rtol=1e-6, atol=0)
    goes_on = np.array([wanted.discount_t for wanted in expected]) > 0
    wanted_s_t = np.array([wanted.s_t for wanted in expected])
    np.testing.assert_array_equal(numbers_of(got.s_t)[goes_on], wanted_s_t[goes_on])


def frame_of(number: int) -> NDArray[np.float32]:
    """The frame with this number, float32[2]."""
    return np.array([number, -number], np.float32)


def numbers_of(frames: NDArray[Any]) -> NDArray[Any]:
    """The numbers of frames float32[..., 2]."""
    np.testing.assert_array_equal(frames[..., 0], -frames[..., 1])
    return frames[..., 0]


def with_pieces(number: int, terminal: Sequence[bool], piece_steps: int) -> Episode:
    """An episode that is cut after every `piece_steps` steps."""
    length = len(terminal)
    return Episode(number, tuple(terminal), (*range(piece_steps, length, piece_steps), length))


@st.composite
def terminals(draw: st.DrawFn, longest: int) -> tuple[bool, ...]:
    """The terminal states of an episode: sometimes in the middle (lives lost), and at the end unless it is truncated."""
    length = draw(st.integers(1, longest))
    on_the_way = draw(st.sets(st.integers(0, length - 1), max_size=2))
    is_terminated = draw(st.booleans())
    return tuple([t in on_the_way for t in range(length - 1)] + [is_terminated])

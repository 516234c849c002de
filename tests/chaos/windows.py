"""Checks segments from replay against the marked environment and its actors. Pure NumPy, over many at once.

A segment's transitions are cut into windows as in the learner's memory. A window begins at each step and ends after n_max
steps, or at a row that is not a step, which is where the episode or its stream ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.segments import PADDING, Segment, SegmentShape
from tests.chaos.markers import Markers, are_truncated, lengths, markers_of, right_actions

PIECE = 400  # segments checked at once


class Findings(NamedTuple):
    """The findings in a number of segments."""

    segments: int
    transitions: int
    cut_short: int  # windows that end before n_max within an episode: it continued on another shard, or its actor stopped
    incarnations: int
    episodes: int
    problems: tuple[str, ...]  # violations, one sentence each; empty if there are none


def check_segments(logs: Mapping[int, Sequence[Segment]], shape: SegmentShape) -> Findings:
    """Checks every window, and that no transition is there twice, within a shard or in several.

    Args:
        logs: by shard.
        shape: of the segments, without a stack: the marked environment has none.
    """
    assert shape.stack == 1
    problems: list[str] = []
    cut_short = 0
    whose: list[NDArray[np.int64]] = [np.zeros((0, 7), np.int64)]
    for shard, segments in logs.items():
        for start in range(0, len(segments), PIECE):
            found, cut, identities = _check_windows(shard, segments[start : start + PIECE], shape)
            problems += found
            cut_short += cut
            whose.append(identities)
    rows = np.concatenate(whose)
    problems += _check_identities(rows)
    return Findings(
        segments=sum(map(len, logs.values())),
        transitions=len(rows),
        cut_short=cut_short,
        incarnations=len(np.unique(rows[:, 1])),
        episodes=len(np.unique(rows[:, [4, 5]], axis=0)),
        problems=tuple(problems),
    )


def _check_windows(shard: int, segments: Sequence[Segment], shape: SegmentShape) -> tuple[list[str], int, NDArray[np.int64]]:
    """(problems, windows cut short, (actor, incarnation, env, number, tag, episode, step) of each transition)."""
    n_max = shape.n_max
    frames, actions, rewards, discounts = (
        np.stack([getattr(one, name) for one in segments]) for name in ("frame", "action", "reward", "discount")
    )
    streams = np.stack([one.stream[0] for one in segments])
    owner, anchor = np.nonzero(actions[:, shape.anchors] != PADDING)
    if not len(owner):
        return [f"shard {shard} has segments without a step"], 0, np.zeros((0, 7), np.int64)
    # Steps are numbered on from a segment's first; `owner` is in ascending order.
    first_of = np.searchsorted(owner, np.arange(len(segments)))
    number = streams[owner, -1] + np.arange(len(owner)) - first_of[owner]
    rows = anchor[:, None] + np.arange(n_max + 1)
    action = actions[owner[:, None], rows[:, :-1]]
    valid = np.logical_and.accumulate(action != PADDING, axis=1)
    steps = valid.sum(axis=1)
    there = np.arange(n_max + 1) <= steps[:, None]
    problems: list[str] = []

    def must(holds: NDArray[np.bool_], rule: str) -> None:
        bad = np.flatnonzero(~holds)
        if len(bad):
            who = dict(zip(("actor", "incarnation", "env"), streams[owner[bad[0]], :3].tolist(), strict=True))
            problems.append(
                f"{len(bad)} transitions of shard {shard} break the rule: {rule}; the first is {number[bad[0]]} of {who}"
            )

    shown_frames = frames[owner[:, None], rows]
    try:
        shown = markers_of(np.where(there[..., None], shown_frames, shown_frames[:, :1]))
    except ValueError as error:
        return [f"shard {shard}: {error}"], 0, np.zeros((0, 7), np.int64)
    first = Markers(*(field[:, 0] for field in shown))
    same = (shown.tag == first.tag[:, None]) & (shown.number == first.number[:, None])
    must((same | ~there).all(axis=1), "all frames are of one episode of one environment")
    must(((shown.step == first.step[:, None] + np.arange(n_max + 1)) | ~there).all(axis=1), "frames follow each other")
    at = Markers(*(field[:, :-1] for field in shown))
    reward, discount = (columns[owner[:, None], rows[:, :-1]] for columns in (rewards, discounts))
    must(((reward == (action == right_actions(at))) | ~valid).all(axis=1), "each reward is the one its action earns there")
    length = lengths(first.tag, first.number)
    last = at.step + 1 == length[:, None]
    alive = np.where(last & ~are_truncated(first.tag, first.number)[:, None], 0.0, 1.0)
    must(((discount == alive) | ~valid).all(axis=1), "the discount is 0 where the episode terminates, and only there")
    must(first.step + steps <= length, "no window reaches past its episode's end")
    must(number == _steps_before(first) + first.step, "steps are numbered as their environment took them")
    cut = int(((steps < n_max) & (first.step + steps < length)).sum())
    return problems, cut, np.column_stack([streams[owner, :3], number, *first])


def _steps_before(markers: Markers) -> NDArray[np.int64]:
    """Steps that each environment took in earlier episodes."""
    before = np.zeros(len(markers.tag), np.int64)
    for tag in np.unique(markers.tag):
        own = markers.tag == tag
        number = markers.number[own]
        of_each = lengths(tag, np.arange(1, max(1, number.max())))
        before[own] = np.concatenate([[0], np.cumsum(of_each)])[number - 1]
    return before


def _check_identities(rows: NDArray[np.int64]) -> list[str]:
    """Checks that (incarnation, env, number) names each transition once, and belongs to only one environment."""
    problems = []
    for columns, named in (([1, 2, 3], "incarnation, env and number"), ([4, 5, 6], "environment, episode and step")):
        twice = len(rows) - len(np.unique(rows[:, columns], axis=0))
        if twice:
            problems.append(f"{twice} transitions are there twice, by {named}")
    owners, tags = len(np.unique(rows[:, :3], axis=0)), len(np.unique(rows[:, 4]))
    if not owners == tags == len(np.unique(rows[:, [0, 1, 2, 4]], axis=0)):
        problems.append(
            f"{owners} writers had {tags} environments: two incarnations are mixed, or an environment changed hands"
        )
    return problems

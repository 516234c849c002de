"""Whether items that replay held are what the marked environment and the actors made: pure NumPy, over many items at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.items import PADDING, Items
from tests.chaos.markers import Markers, are_truncated, lengths, markers_of, right_actions

PIECE_LENGTH = 10_000  # items checked at once


class Findings(NamedTuple):
    """What was found in a number of items."""

    items: int
    cut_short: int  # windows that end before n_max although their episode goes on: it went on elsewhere, or its actor stopped
    incarnations: int
    episodes: int
    problems: tuple[str, ...]  # what must not be, one sentence each; empty: all is well


def check_items(batches: Sequence[Items]) -> Findings:
    """Checks every window, and that no transition is there twice, within a shard or over all of them."""
    problems: list[str] = []
    cut_short = 0
    whose: list[NDArray[np.int64]] = []
    pieces = [_part(batch, start) for batch in batches for start in range(0, len(batch.key), PIECE_LENGTH)]
    for piece in pieces:
        found, cut, identities = _check_windows(piece)
        problems += found
        cut_short += cut
        whose.append(identities)
    rows = np.concatenate(whose) if whose else np.zeros((0, 7), np.int64)
    problems += _check_identities(rows)
    return Findings(
        items=len(rows),
        cut_short=cut_short,
        incarnations=len(np.unique(rows[:, 1])),
        episodes=len(np.unique(rows[:, [4, 5]], axis=0)),
        problems=tuple(problems),
    )


def _part(items: Items, start: int) -> Items:
    part = slice(start, start + PIECE_LENGTH)
    arrays = {name: getattr(items, name)[part] for name in ("frame", "action", "reward", "discount", "meta")}
    return Items(**arrays, key=items.key[part], probability=items.probability[part], table_size=0, shard=items.shard)


def _check_windows(items: Items) -> tuple[list[str], int, NDArray[np.int64]]:
    """(problems, windows cut short, (actor, incarnation, env, row, tag, number, step) of each item)."""
    n_max, frames = items.action.shape[1], items.frame
    valid = items.action != PADDING
    steps = valid.sum(axis=1)
    there = np.arange(n_max + 1)[None, :] <= steps[:, None]
    problems: list[str] = []

    def must(holds: NDArray[np.bool_], rule: str) -> None:
        bad = np.flatnonzero(~holds)
        if len(bad):
            meta = dict(zip(("actor", "incarnation", "env", "row"), items.meta[bad[0], 0, :4].tolist(), strict=True))
            problems.append(f"{len(bad)} items of shard {items.shard} break the rule: {rule}; the first is {meta}")

    must(valid[:, 0] & (np.diff(valid.astype(int), axis=1) <= 0).all(axis=1), "valid steps come first, and there is one")
    must(((frames == 0).all(axis=2) | there).all(axis=1), "rows past the last observation are zero frames")
    try:
        shown = markers_of(np.where(there[..., None], frames, frames[:, :1]))
    except ValueError as error:
        return [*problems, f"shard {items.shard}: {error}"], 0, np.zeros((0, 7), np.int64)
    first = Markers(*(field[:, 0] for field in shown))
    same = (shown.tag == first.tag[:, None]) & (shown.number == first.number[:, None])
    must((same | ~there).all(axis=1), "all frames are of one episode of one environment")
    must(((shown.step == first.step[:, None] + np.arange(n_max + 1)) | ~there).all(axis=1), "frames follow each other")
    at = Markers(*(field[:, :-1] for field in shown))
    earned = items.action == right_actions(at)
    must((items.reward == (earned & valid)).all(axis=1), "each reward is the one that its observation and action earn")
    length = lengths(first.tag, first.number)
    last = at.step + 1 == length[:, None]
    alive = np.where(last & ~are_truncated(first.tag, first.number)[:, None], 0.0, 1.0)
    must((items.discount == np.where(valid, alive, 0.0)).all(axis=1), "the discount is 0 where the episode terminates")
    must((first.step + steps <= length), "no window reaches past its episode's end")
    cut = int(((steps < n_max) & (first.step + steps < length)).sum())
    identities = np.column_stack([items.meta[:, 0, :4], first.tag, first.number, first.step])
    return problems, cut, identities


def _check_identities(rows: NDArray[np.int64]) -> list[str]:
    """Who wrote what: (actor, incarnation, env, row) names an item once, and only ever one environment's."""
    problems = []
    written = rows[:, 1:4]
    if len(np.unique(written, axis=0)) != len(rows):
        problems.append(f"{len(rows) - len(np.unique(written, axis=0))} items are there twice, by incarnation, env and row")
    if len(np.unique(rows[:, 4:7], axis=0)) != len(rows):
        twice = len(rows) - len(np.unique(rows[:, 4:7], axis=0))
        problems.append(f"{twice} transitions are there twice, by environment, episode and step")
    owners, tags = len(np.unique(rows[:, :3], axis=0)), len(np.unique(rows[:, 4]))
    if not owners == tags == len(np.unique(rows[:, [0, 1, 2, 4]], axis=0)):
        problems.append(
            f"{owners} writers had {tags} environments: two incarnations are mixed, or an environment changed hands"
        )
    order = rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1]))]
    same = (order[1:, 1:3] == order[:-1, 1:3]).all(axis=1)
    later = (order[1:, 5] > order[:-1, 5]) | ((order[1:, 5] == order[:-1, 5]) & (order[1:, 6] > order[:-1, 6]))
    if not (later | ~same).all():
        problems.append("a writer's rows are not in the order of its episodes and steps")
    return problems

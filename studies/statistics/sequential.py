"""When to stop adding seeds: a group-sequential permutation test of one arm against another.

Seeds are added in groups, and after each group the test looks at all seeds so far. Under the null hypothesis, the runs of two
arms can be exchanged within each group and environment. Each way of exchanging them, a permutation, gives one path of the
statistic over the looks, and the observed path is one of these. Each look has a boundary. It is set so that the share of paths
that have crossed a boundary by then is at most the level spent by then: alpha times the share of the planned seeds that are in.
So looking often does not increase errors of the first kind, whatever the scores' distribution.

Source: Mathieu et al. 2023, "AdaStop" (arXiv 2306.10882), here one-sided, with any statistic, and with environments as blocks.
Holm's procedure (`holm`) corrects for many arms, as in Maurer and Bretz 2013; AdaStop takes a maximum over comparisons instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from studies.statistics.aggregates import Floats, iqm

PERMUTATIONS = 5000
DIGITS = 9  # of a statistic, in units of the scores' range, so that ties stay ties when sums have another order


def permuted_paths(
    candidate: Floats,
    baseline: Floats,
    looks: Sequence[int],
    statistic: Callable[[Floats], Floats] = iqm,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    planned: Sequence[int] = (),
) -> Floats:
    """Candidate minus baseline at each look, for each permutation; row 0 is the observed data.

    If there are at most `permutations` of them, it makes them all. Otherwise it draws that many, including the observed one,
    which keeps the test exact (Phipson and Smyth 2010).

    Args:
        candidate, baseline: float64[S, E], rows in the order in which seeds were added.
        looks: numbers of seeds, rising; the last is at most S.
        statistic: float64[..., S, E] -> float64[...].
        seed: of the drawing. For a given seed, chance moves the test's level by at most sqrt(alpha / permutations): 0.3 %.
        planned: all looks, including future ones; by default `looks`. Whether all permutations are made depends on these, so
            that an early look has the same paths again at a later one.

    Returns:
        float64[permutations, looks].
    """
    edges = [0, *looks]
    groups = [np.stack([candidate[a:b], baseline[a:b]]) for a, b in pairwise(edges)]
    pools = [group.reshape(-1, group.shape[2]) for group in groups]  # float64[2 n, E]: the candidate's runs first
    sizes = [b - a for a, b in pairwise([0, *(planned or looks)])]
    orders = _orders(sizes, candidate.shape[1], permutations, np.random.default_rng(seed))[: len(pools)]
    paths = []
    arms: list[list[Floats]] = [[], []]
    for pool, order in zip(pools, orders, strict=True):
        runs = np.take_along_axis(pool[None], order, axis=1)  # float64[P, 2 n, E]
        half = len(pool) // 2
        arms[0].append(runs[:, :half])
        arms[1].append(runs[:, half:])
        paths.append(statistic(np.concatenate(arms[0], axis=1)) - statistic(np.concatenate(arms[1], axis=1)))
    scale = float(np.ptp(np.concatenate(pools))) or 1.0
    return np.asarray(np.round(np.stack(paths, axis=1) / scale, DIGITS) * scale)


def crossed_at(paths: Floats, spent: Sequence[float]) -> int | None:
    """The look, from 0, at which the observed path crosses its boundary; None if it has not yet.

    Args:
        paths: from `permuted_paths`; row 0 is the observed path.
        spent: the level that may be spent by each look, rising; the last is the level of the test if all seeds are in.
    """
    alive = np.arange(len(paths))
    for look, level in enumerate(spent):
        values = paths[alive, look]
        crossing = values > _boundary(values, int(level * len(paths) + 1e-9) - (len(paths) - len(alive)))
        if alive[0] == 0 and crossing[0]:
            return look
        alive = alive[~crossing]
    return None


def boundaries(paths: Floats, spent: Sequence[float]) -> tuple[float, ...]:
    """The boundary at each look. A statistic above it is shown to be positive."""
    alive, found = np.arange(len(paths)), []
    for look, level in enumerate(spent):
        values = paths[alive, look]
        found.append(_boundary(values, int(level * len(paths) + 1e-9) - (len(paths) - len(alive))))
        alive = alive[values <= found[-1]]
    return tuple(found)


def sequential_p(paths: Floats, shares: Sequence[float], levels: Sequence[float]) -> float:
    """The smallest of `levels` at which the test has so far shown that the candidate is better; 1 if there is none.

    Args:
        paths: from `permuted_paths`.
        shares: of the planned seeds, by look. The spending function is linear in them.
        levels: in any order. A level counts only if all larger ones reject too, so that ties cannot reverse the order.
    """
    smallest = 1.0
    for level in sorted(levels, reverse=True):
        if crossed_at(paths, [level * share for share in shares]) is None:
            break
        smallest = level
    return smallest


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values. Those at or below alpha count as shown. At most a share alpha of studies has a false one.

    Source: Holm 1979. Valid for any dependence between the p-values.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate([p[index] * (len(p) - rank) for rank, index in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(adjusted, 1.0)
    return tuple(found.tolist())


def _boundary(values: Floats, budget: int) -> float:
    """The smallest number with at most `budget` of the values above it."""
    if budget >= len(values):
        return -math.inf
    return float(np.partition(values, len(values) - 1 - budget)[len(values) - 1 - budget])


def _orders(
    sizes: Sequence[int], environments: int, permutations: int, generator: np.random.Generator
) -> list[NDArray[np.intp]]:
    """For each group of n seeds, orders that assign 2 n runs to both arms: intp[P, 2 n, E]; row 0 is the observed one."""
    ways = [math.comb(2 * size, size) for size in sizes for _ in range(environments)]
    if math.prod(ways) <= permutations:
        return _all_orders(sizes, environments, ways)
    orders = []
    for size in sizes:
        drawn = generator.random((permutations, 2 * size, environments)).argsort(axis=1)
        drawn[0] = np.arange(2 * size)[:, None]
        orders.append(drawn)
    return orders


def _all_orders(sizes: Sequence[int], environments: int, ways: Sequence[int]) -> list[NDArray[np.intp]]:
    which = np.stack(np.unravel_index(np.arange(math.prod(ways)), ways), axis=1).reshape(-1, len(sizes), environments)
    orders = []
    for group, size in enumerate(sizes):
        chosen = [list(one) for one in combinations(range(2 * size), size)]  # the first one changes nothing
        dealt = np.array([one + [run for run in range(2 * size) if run not in one] for one in chosen])
        orders.append(np.moveaxis(dealt[which[:, group]], 1, 2))
    return orders

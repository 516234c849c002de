"""Other libraries' prioritized replay: sample, gather, set priorities, at equal capacity. Runs in .venv-peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def tianshou_memory(batch_size: int, capacity: int, filled: int, threads: int) -> Callable[[int], None]:
    """Tianshou's prioritized buffer, with a segment tree compiled by Numba. Stacks are gathered from rows."""
    from tianshou.data import Batch, PrioritizedReplayBuffer

    torch.set_num_threads(threads)
    buffer = PrioritizedReplayBuffer(capacity, alpha=0.5, beta=0.5, stack_num=4, ignore_obs_next=True, save_only_last_obs=True)
    generator = np.random.default_rng(0)
    frames = generator.integers(256, size=(16, 4, 84, 84), dtype=np.uint8)
    for step in range(filled):
        stack, is_last = frames[step % 16], step % 1000 == 999
        buffer.add(Batch(obs=stack, act=1, rew=1.0, terminated=is_last, truncated=False, obs_next=stack, info={}))

    def work(batches: int) -> None:
        for _ in range(batches):
            batch, index = buffer.sample(batch_size)
            tensors = [torch.from_numpy(batch[name]) for name in ("obs", "obs_next", "act", "rew", "weight")]
            buffer.update_weight(index, generator.random(len(tensors[0])) + 0.1)

    return work


def sum_tree_memory(batch_size: int, capacity: int, filled: int, threads: int) -> Callable[[int], None]:
    """A typical sum tree, searched level by level for a whole batch at once. Stacks are gathered from rows."""
    tree = SumTree(capacity)
    generator = np.random.default_rng(0)
    frames = generator.integers(256, size=(filled + 8, 84, 84), dtype=np.uint8)
    tree.set(np.arange(filled), generator.random(filled) + 0.1)
    columns = [np.zeros(filled, dtype) for dtype in (np.int64, np.float32, np.float32)]
    stack = np.arange(4)

    def work(batches: int) -> None:
        for _ in range(batches):
            index, probability = tree.sample(batch_size, generator)
            batch: list[Any] = [torch.from_numpy(frames[index[:, None] + stack + step]) for step in (0, 3)]
            batch += [torch.from_numpy(column[index]) for column in columns]
            batch.append(torch.from_numpy(probability))
            tree.set(index, generator.random(batch_size) + 0.1)

    return work


class SumTree:
    """Priorities as the leaves of a binary tree of sums."""

    def __init__(self, capacity: int) -> None:
        self._leaves = 1 << (capacity - 1).bit_length()
        self._sums = np.zeros(2 * self._leaves)

    def set(self, index: NDArray[np.int64], priority: NDArray[np.float64]) -> None:
        node = index + self._leaves
        self._sums[node] = priority
        while node[0] > 1:
            node = np.unique(node // 2)
            self._sums[node] = self._sums[2 * node] + self._sums[2 * node + 1]

    def sample(self, count: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        total = self._sums[1]
        left = generator.random(count) * total
        node = np.ones(count, np.int64)
        while node[0] < self._leaves:
            node *= 2
            goes_right = left >= self._sums[node]
            left -= np.where(goes_right, self._sums[node], 0.0)
            node += goes_right
        return node - self._leaves, self._sums[node] / total

"""How actors and the evaluator choose actions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from sbrl.networks.heads import QuantileNetwork
from sbrl.networks.serialization import load_weights


def use_one_thread() -> None:
    """Has torch compute on the calling thread alone: a process with a policy is worth one core; more processes use more."""
    torch.set_num_threads(1)


class EpsilonGreedyPolicy:
    """The greedy action, or with probability epsilon a uniformly random one; deterministic given its seed."""

    def __init__(self, network: QuantileNetwork, num_actions: int, seed: int) -> None:
        """
        Args:
            network: On the CPU; this policy's own, `load` overwrites its parameters.
            num_actions: Actions of the environment.
            seed: Seeds exploration.
        """
        self._network = network
        self._num_actions = num_actions
        self._generator = np.random.default_rng(seed)
        self._weight, self._bias = network.head.fold()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Acts with `weights` from now on.

        Raises:
            RunError: the weights are of another network; the policy keeps those it had.
        """
        load_weights(self._network, weights)
        self._weight, self._bias = self._network.head.fold()

    def act(self, observation: npt.NDArray[np.generic], epsilon: float) -> npt.NDArray[np.int64]:
        """observation [B, stack, *frame_shape] -> actions int64[B], each random with probability `epsilon`."""
        batch_size = len(observation)
        explore = self._generator.random(batch_size) < epsilon
        random_actions = self._generator.integers(self._num_actions, size=batch_size, dtype=np.int64)
        if explore.all():  # warm-up acts with epsilon 1: no use for the network then
            return random_actions
        return np.where(explore, random_actions, self.q_values(observation).argmax(axis=1))

    def q_values(self, observation: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Expected returns, float32[B, num_actions]."""
        with torch.inference_mode():
            features = self._network.torso(torch.from_numpy(observation))
            values: npt.NDArray[np.float32] = functional.linear(features, self._weight, self._bias).numpy()
        return values

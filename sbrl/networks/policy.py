"""How actors and the evaluator choose actions."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sbrl.networks.network import ValueNetwork
from sbrl.networks.serialization import copy_tensors

logger = logging.getLogger(__name__)


def use_one_thread() -> None:
    """Makes torch compute on the calling thread only. A process with a policy uses one core; more processes use more."""
    torch.set_num_threads(1)


def warn_of_slow_precision(precision: str) -> None:
    """Logs a warning if the processor is slow with actors.precision."""
    if precision == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():
        logger.warning("actors.precision=bfloat16, but this processor has no instructions for it: float32 would be faster")


def seed_torch(seed: int) -> None:
    """Seeds torch's global generator, the source of noisy layers' noise and of IQN's quantile fractions."""
    torch.manual_seed(seed)


class EpsilonGreedyPolicy:
    """The greedy action, or with probability epsilon a uniformly random one.

    Deterministic given its seed and, with noisy layers or IQN, the state of torch's global generator.
    """

    def __init__(
        self, network: ValueNetwork, num_actions: int, seed: int, noise: bool = False, precision: str = "float32"
    ) -> None:
        """
        Args:
            network: On the CPU. It belongs to this policy: `load` overwrites its parameters.
            num_actions: Actions of the environment.
            seed: Seeds exploration.
            noise: Whether noisy layers explore, with new noise for each batch of actions. If not, their mean weights act.
            precision: float32 or bfloat16, for the network's parameters and all its computations.
        """
        self._network = network.train(noise).to(getattr(torch, precision))
        self._noise = noise
        self._weights = network.state_dict()
        self._num_actions = num_actions
        self._generator = np.random.default_rng(seed)
        self._values = network.head.acting()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Acts with `weights` from now on.

        Raises:
            RunError: the weights belong to another network; the policy keeps its old ones.
        """
        copy_tensors(self._weights, weights, "weights")
        self._values = self._network.head.acting()

    def act(self, observation: npt.NDArray[np.generic], epsilon: float | npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Chooses an action for each observation.

        Args:
            observation: [B, stack, *frame_shape].
            epsilon: Probability of a random action: one number for all, or float64[B].

        Returns:
            int64[B].
        """
        batch_size = len(observation)
        explore = self._generator.random(batch_size) < epsilon
        random_actions = self._generator.integers(self._num_actions, size=batch_size, dtype=np.int64)
        if explore.all():  # warm-up acts with epsilon 1 and does not need the network
            return random_actions
        if self._noise:
            self._network.resample_noise()
        return np.where(explore, random_actions, self.q_values(observation).argmax(axis=1))

    def q_values(self, observation: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Expected returns, float32[B, num_actions], with the current noise."""
        with torch.inference_mode():
            values: npt.NDArray[np.float32] = self._values(self._network.torso(torch.from_numpy(observation))).float().numpy()
        return values

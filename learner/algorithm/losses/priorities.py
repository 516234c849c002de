"""Priorities and importance weights of prioritized replay (Schaul et al. 2016)."""

from __future__ import annotations

from torch import Tensor


def importance_weights(probability: Tensor, exponent: float = 0.5, least: float | None = None) -> Tensor:
    """probability ** -exponent, divided by its maximum: float64[B] -> float32[B] in (0, 1].

    Args:
        least: the probability that has the maximum, at most the batch's least; None: the batch's least. A batch from Reverb is
            from one shard: divided by its own maximum, the shard's share would cancel out.
    """
    return (probability / (probability.min() if least is None else least)).pow(-exponent).float()


def priorities(loss: Tensor, exponent: float) -> Tensor:
    """(loss + 1e-10) ** exponent, float64[B]. Never 0, so that every transition can be sampled again."""
    return (loss.double() + 1e-10).pow(exponent)

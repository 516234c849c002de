"""New priorities and importance weights, as prioritized replay (Schaul et al. 2016) needs them of a loss."""

from __future__ import annotations

from torch import Tensor


def importance_weights(probability: Tensor, exponent: float = 0.5, least: float | None = None) -> Tensor:
    """probability ** -exponent over the maximum of that: float64[B] -> float32[B] in (0, 1].

    Args:
        least: the maximum is at this probability, at most the batch's least; None: at the batch's least. A batch comes from one
            shard: over its own maximum, the shard's share would cancel out.
    """
    return (probability / (probability.min() if least is None else least)).pow(-exponent).float()


def priorities(loss: Tensor, exponent: float) -> Tensor:
    """(loss + 1e-10) ** exponent, float64[B]: never 0, so that no transition is out of reach for ever."""
    return (loss.double() + 1e-10).pow(exponent)

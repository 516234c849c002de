"""The error that a learner raises when its numbers are no longer finite. Pure: no loop, no I/O."""

from __future__ import annotations

from torch import Tensor

from learner.records import Batch
from sbrl.config import Config
from sbrl.errors import FinalError

LARGE = 1e4  # rewards or observations above this are a likelier cause than the learning rate


def divergence(what: str, updates: int, batch: Batch | None, data_is_finite: bool, config: Config) -> FinalError:
    """The error that ends training, with its likeliest cause and the remedy.

    Args:
        what: says what is not finite: "the loss is nan".
        updates: made so far.
        batch: the last one trained on, None before the first. It shows how large the data are.
        data_is_finite: whether all rewards and observations trained on were finite.
    """
    saved = "nothing of that is saved or published: --resume goes on from the last checkpoint, which is finite"
    if not data_is_finite:
        cause = (
            "the replay holds rewards or observations that are not finite or too large to be added up, and keeps them: mend "
            "the environment and start a new run"
        )
    else:
        cause = _cause(batch, config)
    return FinalError(f"{what} after {updates:,} updates; {cause}; {saved}")


def _cause(batch: Batch | None, config: Config) -> str:
    rate = f"lower learner.learning_rate={config.learner.learning_rate:g}"
    if batch is None:
        return rate
    reward = _largest(batch.r_t)
    observation = max(_largest(batch.s_tm1), _largest(batch.s_t)) if batch.s_t.is_floating_point() else 0.0
    if max(reward, observation) > LARGE:
        return (
            f"the last batch has rewards of up to {reward:.3g} and observations of up to {observation:.3g}: scale them down in "
            f"the environment, or set env.clip_rewards=true, and start a new run; or {rate}"
        )
    return rate


def _largest(values: Tensor) -> float:
    """The largest absolute value."""
    return float(values.abs().max().item())

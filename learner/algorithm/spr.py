"""Self-predictive representations (SPR, Schwarzer et al. 2021), in the form of SR-SPR and BBF.

A convolutional transition model predicts the latents 1 .. K steps after s_tm1 from its latent and the actions taken. The
torso's projection and a linear predictor turn each one into a vector. The loss pulls its direction towards that of the target
network's projection of the observation seen at that step. As in BBF, there is no prediction of the present observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.records import Batch
from sbrl.config import Agent
from sbrl.networks.torsos import Torso, renormalize
from sbrl.seeds import self_prediction_seed


class SelfPrediction(nn.Module):
    """The modules trained beside the network, and the loss. B: batch size, K: jumps, D: units of the dense layer."""

    def __init__(self, torso: Torso, num_actions: int) -> None:
        """
        Args:
            torso: The online network's torso; only its sizes are used.
        """
        super().__init__()
        channels, _, _ = torso.latent_shape
        self.transition = TransitionModel(channels, num_actions)
        self.predictor = nn.Linear(torso.output_size, torso.output_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Glorot's uniform weights, as in BBF, and biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, latent: Tensor, online: Torso, target: Torso, batch: Batch) -> Tensor:
        """The loss of each sample, float32[B]. Its gradient reaches the online torso and this module, but not the target.

        Noisy layers use their mean weights, as in BBF.

        Args:
            latent: online.encode(batch.s_tm1).
        """
        sequence = batch.sequence
        assert sequence is not None
        predicted = []
        for action in sequence.action.unbind(1):
            latent = self.transition(latent, action)
            predicted.append(latent)
        (batch_size, jumps), dtype = sequence.action.shape, self.predictor.weight.dtype
        with _mean_weights(online), _mean_weights(target):
            predictions = self.predictor(online.projection(torch.cat(predicted)))
            with torch.no_grad():
                targets = target.projection(target.encode(sequence.observation.flatten(0, 1)))
        return self_prediction_loss(
            predictions.to(dtype).unflatten(0, (jumps, batch_size)).transpose(0, 1),
            targets.to(dtype).unflatten(0, (batch_size, jumps)),
            sequence.valid,
        )


class NoSelfPrediction(nn.Module):
    """No loss, nothing to learn."""

    def forward(self, latent: Tensor, online: Torso, target: Torso, batch: Batch) -> Tensor:
        """Zeros, float32[B]."""
        return latent.new_zeros(len(latent))


class TransitionModel(nn.Module):
    """Predicts the next latent: two 3x3 convolutions on the latent and one plane per action, all 1 for the one taken."""

    def __init__(self, channels: int, num_actions: int) -> None:
        super().__init__()
        self._num_actions = num_actions
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels + num_actions, channels, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)),
        )

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """latent float32[B, C, H, W], action int64[B] -> latent of the same shape, in [0, 1]."""
        # Not torch's one_hot, which copies the actions to the host to check them.
        planes = (action[:, None] == torch.arange(self._num_actions, device=action.device)).to(latent.dtype)
        planes = planes[:, :, None, None].expand(-1, -1, *latent.shape[2:])
        return renormalize(self.layers(torch.cat((latent, planes), dim=1)))


def self_prediction_loss(predictions: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Squared distance of the vectors scaled to length 1, which is 2 - 2 cos(angle between them); mean over jumps.

    Args:
        predictions: float[B, K, D].
        targets: float[B, K, D].
        valid: bool[B, K]; invalid jumps count as 0.

    Returns:
        float[B], between 0 and 4.
    """
    distance = functional.normalize(predictions, dim=-1) - functional.normalize(targets, dim=-1)
    return (distance.square().sum(dim=-1) * valid).mean(dim=1)


def make_self_prediction(agent: Agent, torso: Torso, num_actions: int, seed: int) -> SelfPrediction | NoSelfPrediction:
    """Makes it on the CPU, with parameters that depend only on the seed. Without parameters if agent.spr_weight is 0."""
    if not agent.predicts_itself:
        return NoSelfPrediction()
    generator = torch.Generator().manual_seed(self_prediction_seed(seed))
    # The meta device draws no random numbers, so torch's global generator does not advance.
    with torch.device("meta"):
        made = SelfPrediction(torso, num_actions)
    made.to_empty(device="cpu")
    made.initialise(generator)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def _mean_weights(torso: Torso) -> Iterator[None]:
    """Within the context, noisy layers use their mean weights."""
    training = torso.training
    torso.eval()
    try:
        yield
    finally:
        torso.train(training)

"""Which networks fit an environment. Needs no torch, so that a launcher can ask."""

from __future__ import annotations

from collections.abc import Mapping

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import UsageError, plain

_TORSO_OF_KIND: Mapping[str, str] = {"frames": "nature-cnn", "grid": "minatar-conv", "vector": "mlp"}
_LEAST_SIZE: Mapping[str, int] = {"nature-cnn": 36, "impala": 8, "minatar-conv": 3}  # height and width of the image, in pixels


def torso_name(agent: config.Agent, spec: EnvSpec) -> str:
    """agent.torso, with auto resolved by the kind of observation."""
    return _TORSO_OF_KIND[spec.kind] if agent.torso == "auto" else agent.torso


def image_shape(torso: str, spec: EnvSpec) -> tuple[int, int, int]:
    """Channels (with the stack), height and width of the image that a convolutional torso sees.

    Raises:
        UsageError: the observation is not an image, or is too small for `torso`.
    """
    if not _is_image(spec):
        raise UsageError(
            f"agent.torso={torso} needs an image, but the observation has shape {spec.frame_shape}; set agent.torso=mlp or auto"
        )
    *planes, height, width = spec.frame_shape
    least = _LEAST_SIZE[torso]
    if min(height, width) < least:
        raise UsageError(
            f"agent.torso={torso} needs an image of {least}x{least} or more, but it is {height}x{width}; set agent.torso=auto"
        )
    return spec.stack * (planes[0] if planes else 1), height, width


def check_network(tree: config.Config, spec: EnvSpec) -> None:
    """Checks, before anything is built, that the network and the augmentation fit the environment's observations.

    Raises:
        UsageError: agent.torso cannot take the observations; self-prediction has no convolutional torso with latent images to
            predict; random_shift or intensity_jitter has no images to change.
    """
    torso = torso_name(tree.agent, spec)
    if torso != "mlp":
        image_shape(torso, spec)
    elif tree.agent.predicts_itself:
        raise UsageError(
            f"agent.spr_weight={plain(tree.agent.spr_weight)}: self-prediction predicts the latent images of a convolutional "
            f"torso, but the torso is mlp; set agent.spr_weight=0, or choose an environment with images"
        )
    for name, value in (
        ("random_shift", tree.learner.random_shift),
        ("intensity_jitter", tree.learner.intensity_jitter),
    ):
        if value > 0 and not _is_image(spec):
            raise UsageError(
                f"learner.{name}={plain(value)} changes images, but the observation has shape {spec.frame_shape}; "
                f"set learner.{name}=0"
            )


def _is_image(spec: EnvSpec) -> bool:
    return len(spec.frame_shape) in (2, 3)

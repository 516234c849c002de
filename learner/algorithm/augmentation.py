"""Random changes to a batch's images, drawn from torch's global generator of the batch's device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from learner.records import Batch
from sbrl.config import Learner

Augmentation = Callable[[Tensor], Tensor]  # [B, stack, *frame_shape] -> the same shape


def make_augmentation(settings: Learner) -> Augmentation:
    """The augmentation that learner.random_shift and then learner.intensity_jitter ask for. Both are off by default."""

    def augment(images: Tensor) -> Tensor:
        if settings.random_shift:
            images = random_shift(images, settings.random_shift)
        if settings.intensity_jitter:
            images = intensity_jitter(images, settings.intensity_jitter)
        return images

    return augment


def augment_batch(batch: Batch, augment: Augmentation) -> Batch:
    """Augments every observation of `batch` independently."""
    sequence = batch.sequence
    if sequence is not None:
        future = augment(sequence.observation.flatten(0, 1)).unflatten(0, sequence.observation.shape[:2])
        sequence = sequence._replace(observation=future)
    return batch._replace(s_tm1=augment(batch.s_tm1), s_t=augment(batch.s_t), sequence=sequence)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """DrQ's augmentation (Yarats et al. 2021): pad by repeating the border, then crop at random to the old size.

    Each image has its own shift of -pixels .. pixels along each axis. All planes of its stack share it.

    Args:
        images: [B, ..., height, width], any dtype.
    """
    (batch_size, *_), (height, width) = images.shape, images.shape[-2:]
    shift = torch.randint(-pixels, pixels + 1, (2, batch_size, 1), device=images.device)
    # The source of each pixel. The clamp to the border is the padding.
    row = (torch.arange(height, device=images.device) + shift[0]).clamp(0, height - 1)
    column = (torch.arange(width, device=images.device) + shift[1]).clamp(0, width - 1)
    source = (row[:, :, None] * width + column[:, None, :]).reshape(batch_size, 1, -1)
    planes = images.reshape(batch_size, -1, height * width)
    return planes.gather(2, source.expand_as(planes)).reshape(images.shape)


def intensity_jitter(images: Tensor, scale: float) -> Tensor:
    """SPR's augmentation (Schwarzer et al. 2021): each image times 1 + scale * clip(x, -2, 2), x from a standard normal.

    Args:
        images: [B, ...], any dtype.

    Returns:
        float32, in the range of `images` times the factor.
    """
    noise = torch.randn(len(images), *[1] * (images.dim() - 1), device=images.device)
    return images * (1 + scale * noise.clamp(-2, 2))

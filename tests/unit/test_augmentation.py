"""Augmentation: each image is shifted and jittered independently, and as published."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learner.algorithm.augmentation import augment_batch, intensity_jitter, make_augmentation, random_shift
from learner.records import Batch, Sequence
from sbrl import config


def images(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(64, 4, 9, 12), (64, 1, 3, 10, 10)], ids=["frames", "grid"])
def test_a_shift_is_a_crop_of_the_padded_image_the_same_for_the_whole_stack(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    before, pixels = images(*shape), 2
    after = random_shift(before, pixels)
    assert after.dtype == torch.uint8
    height, width = shape[-2:]
    seen = set()
    for image, shifted in zip(before.flatten(1, -3), after.flatten(1, -3), strict=True):
        padded = torch.nn.functional.pad(image.float()[None], (pixels,) * 4, mode="replicate")[0].byte()
        crops = {(y, x): padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5)}
        (offset,) = [offset for offset, crop in crops.items() if torch.equal(crop, shifted)]
        seen.add(offset)
    assert {y for y, _ in seen} == {x for _, x in seen} == {0, 1, 2, 3, 4}  # the outermost crops included
    assert len(seen) > 12  # each image by itself, both axes apart


def test_jitter_is_one_clipped_factor_for_each_image() -> None:
    torch.manual_seed(0)
    ones = torch.ones(4000, 2, 3, 3)
    factor = intensity_jitter(ones, 0.05)
    assert torch.equal(factor, factor[:, :1, :1, :1].expand_as(factor))
    factor = factor[:, 0, 0, 0]
    assert factor.min() == pytest.approx(0.9)  # clipped at two standard deviations
    assert factor.max() == pytest.approx(1.1)
    assert factor.mean().item() == pytest.approx(1.0, abs=0.003)
    assert factor.std().item() == pytest.approx(0.048, abs=0.003)


def test_jitter_turns_bytes_into_floats_of_the_same_range() -> None:
    jittered = intensity_jitter(images(8, 4, 5, 5), 0.05)
    assert jittered.dtype == torch.float32
    assert 200 < jittered.max() <= 255 * 1.1


def test_all_of_a_batch_is_augmented_and_repeats_with_the_seed() -> None:
    settings = config.build({"learner": {"random_shift": 4, "intensity_jitter": 0.05}}).learner
    augment = make_augmentation(settings)
    frame = images(1, 4, 36, 36)
    sequence = Sequence(frame.expand(2, 3, -1, -1, -1), torch.zeros(2, 3).long(), torch.ones(2, 3).bool())
    ones = torch.ones(2)
    batch = Batch(frame.expand(2, -1, -1, -1), ones.long(), ones, ones, frame.expand(2, -1, -1, -1), ones.double(), sequence)
    torch.manual_seed(3)
    first = augment_batch(batch, augment)
    second = augment_batch(batch, augment)
    torch.manual_seed(3)
    again = augment_batch(batch, augment)
    assert first.sequence is not None
    assert second.sequence is not None
    assert again.sequence is not None
    seen = torch.cat([first.s_tm1, first.s_t, first.sequence.observation.flatten(0, 1)])
    assert len({image.numpy().tobytes() for image in seen}) == 2 + 2 + 6  # no two alike
    assert not torch.equal(first.s_tm1, second.s_tm1)
    assert torch.equal(first.s_tm1, again.s_tm1)
    assert torch.equal(first.sequence.observation, again.sequence.observation)
    assert first.a_tm1 is batch.a_tm1


def test_without_augmentation_a_batch_keeps_its_tensors() -> None:
    frame, ones = images(2, 4, 36, 36), torch.ones(2)
    batch = Batch(frame, ones.long(), ones, ones, frame, ones.double())
    same = augment_batch(batch, make_augmentation(config.build({}).learner))
    assert same.s_tm1 is frame
    assert same.s_t is frame

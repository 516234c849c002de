"""Makes frames of the pictures that environments show: gray, each pixel the mean over its area. Pure.

The mean is our own code. Pillow's box filter and torch's area mode only take whole pixels, and OpenCV, the oracle in a test,
would add 50 MB to every image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

# Smaller arrays are usually boards and cell codes (25 x 25 x 3 in MiniGrid). The smallest pictures in use are 28 x 28.
LEAST_SIDE = 28
CHANNELS = (1, 3)  # gray, RGB
# Weights of red, green and blue (ITU-R BT.601), in 1/32,768 as in OpenCV. A float32 holds such a sum exactly.
LUMINANCE = np.array([9_798, 19_235, 3_735], np.float32)
LUMINANCE_UNIT = 32_768
EXACT_IN_FLOAT32 = 2**24  # whole numbers are exact up to here


class NoPictureError(ValueError):
    """An observation is not a picture. The message names the broken rule and the remedy."""


class Layout(NamedTuple):
    """The layout of a picture's array."""

    height: int  # pixels
    width: int
    channel_axis: int | None  # 0 or 2; None: gray, without this axis


def layout_of(space: Space[Any]) -> Layout:
    """The layout of a space's pictures: [H, W], [H, W, C] or [C, H, W] of uint8 from 0 to 255, with C of 1 or 3.

    Every shape has one reading, because height and width are larger than the number of channels.

    Raises:
        NoPictureError: the space has no pictures.
    """
    if not isinstance(space, spaces.Box):
        raise NoPictureError("a picture is a Box; gymnasium.wrappers.TransformObservation can pick it out")
    shape = space.shape
    if len(shape) not in (2, 3):
        raise NoPictureError(
            f"its shape is {shape} and a picture has 2 or 3 dimensions; gymnasium.wrappers.ReshapeObservation changes that"
        )
    if space.dtype != np.uint8:
        raise NoPictureError(
            f"its type is {space.dtype} and a picture's is uint8; gymnasium.wrappers.TransformObservation can convert it"
        )
    axis = None if len(shape) == 2 else 2 if shape[2] in CHANNELS else 0
    if axis == 0 and shape[0] not in CHANNELS:
        raise NoPictureError(
            "neither its last nor its first dimension is 1 (gray) or 3 (RGB); in gymnasium.wrappers.TransformObservation "
            "observation[..., :3] drops an alpha channel; env.frame_stack stacks frames, so leave out a stack of your own"
        )
    height, width = (side for place, side in enumerate(shape) if place != axis)
    if min(height, width) < LEAST_SIDE:
        raise NoPictureError(
            f"it is {height} x {width} and a picture is at least {LEAST_SIDE} x {LEAST_SIDE}; "
            f"gymnasium.wrappers.ResizeObservation makes it larger"
        )
    if (space.low != 0).any() or (space.high != 255).any():
        raise NoPictureError(
            f"its bounds are {space.low.min()} and {space.high.max()} and a picture's are 0 and 255; "
            f"gymnasium.wrappers.TransformObservation can scale it, and states the bounds"
        )
    return Layout(height, width, axis)


class FrameMaker:
    """Makes frames of pictures with one layout. They are the same on every machine: sums are exact, halves round to even."""

    def __init__(self, layout: Layout, size: int) -> None:
        """
        Args:
            size: height and width of a frame, in pixels.
        """
        self._channel_axis = layout.channel_axis
        self._area = layout.height * layout.width  # area of a frame's pixel, in units of 1/size^2 of a picture's pixel
        self._dtype = np.float32 if 255 * self._area <= EXACT_IN_FLOAT32 else np.float64
        self._rows, self._columns = (_covered(side, size, self._dtype) for side in (layout.height, layout.width))

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8[size, size]."""
        gray = self._gray(picture).astype(self._dtype)
        sums = _sums(_sums(gray, self._rows).T, self._columns).T
        frame: NDArray[np.uint8] = np.rint(np.divide(sums, self._area, dtype=np.float64)).astype(np.uint8)
        return frame

    def _gray(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        if self._channel_axis is None:
            return picture
        channels_last = np.moveaxis(picture, self._channel_axis, 2)
        if channels_last.shape[2] == 1:
            return channels_last[..., 0]
        weighted = channels_last.astype(np.float32) @ LUMINANCE
        gray: NDArray[np.float32] = np.floor((weighted + LUMINANCE_UNIT // 2) / LUMINANCE_UNIT)
        return gray


def _covered(source: int, target: int, dtype: type[np.floating[Any]]) -> list[tuple[NDArray[np.int64], NDArray[Any]]]:
    """The lines of a picture that each line of a frame covers, one after the other, and the covered part of each.

    The lines are int64[target]. The parts are dtype[target, 1] in units of 1/target of a line: whole numbers that add up to
    `source`.
    """
    begin, end = (np.arange(first, first + target) * source for first in (0, 1))
    lines = []
    for line in range(int((-(-end // target) - begin // target).max())):
        index = begin // target + line
        part = np.minimum(end, (index + 1) * target) - np.maximum(begin, index * target)
        lines.append((np.minimum(index, source - 1), np.maximum(part, 0).astype(dtype)[:, None]))
    return lines


def _sums(picture: NDArray[Any], covered: list[tuple[NDArray[np.int64], NDArray[Any]]]) -> NDArray[Any]:
    """[source, W] -> [target, W]: sums of the lines that each line of a frame covers, weighted by the covered part."""
    (index, part), *others = covered
    total = picture[index] * part
    for index, part in others:
        total += picture[index] * part
    return np.ascontiguousarray(total)

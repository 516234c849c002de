"""Video files of RGB frames: GIF everywhere, MP4 where ffmpeg's Python package is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import numpy.typing as npt
from PIL import Image

from sbrl.errors import RunError, UsageError

LEAST_HEIGHT = 400  # pixels; what is lower (an Atari screen: 210, MinAtar: 10) is enlarged by a whole factor
GIF_COLOURS = 256
PALETTE_FRAMES = 64  # frames, spread over the video, that the common palette is made from


def check_format(path: Path) -> None:
    """Says before anything is played whether a video can be written to `path`.

    Raises:
        UsageError: neither .gif nor .mp4, a package is missing, or there is no such folder.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise UsageError(f"--output {path}: must end in .gif or .mp4")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UsageError(f"--output {path}: MP4 needs the package imageio-ffmpeg: pip install imageio-ffmpeg, or write a .gif")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}")


def write_video(path: Path, frames: Sequence[npt.NDArray[np.uint8]], fps: float) -> None:
    """Writes frames uint8[height, width, 3] to be shown at `fps` a second, in the format of the path's ending.

    Raises:
        RunError: the file system refuses.
    """
    scale = -(-LEAST_HEIGHT // len(frames[0]))
    try:
        if path.suffix == ".gif":
            _write_gif(path, frames, fps, scale)
        else:
            imageio.mimwrite(path, [frame.repeat(scale, axis=0).repeat(scale, axis=1) for frame in frames], fps=fps)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def _write_gif(path: Path, frames: Sequence[npt.NDArray[np.uint8]], fps: float, scale: int) -> None:
    # One palette for all frames: Pillow then stores of each frame only the rectangle that changed.
    sample = np.concatenate(frames[:: -(-len(frames) // PALETTE_FRAMES)])
    palette = Image.fromarray(sample).quantize(GIF_COLOURS)
    height, width, _ = frames[0].shape
    first, *rest = (
        Image.fromarray(frame)
        .quantize(palette=palette, dither=Image.Dither.NONE)
        .resize((scale * width, scale * height), Image.Resampling.NEAREST)
        for frame in frames
    )
    hundredths = max(2, round(100 / fps))  # a GIF's unit of time; browsers slow down below two
    first.save(path, save_all=True, append_images=rest, duration=10 * hundredths, loop=0, optimize=False)

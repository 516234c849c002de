"""Video files of RGB frames: GIF always, MP4 if ffmpeg's Python package is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import numpy.typing as npt
from PIL import Image

from sbrl.errors import RunError, UsageError

LEAST_HEIGHT = 400  # pixels; smaller frames (Atari: 210, MinAtar: 10) are enlarged by a whole factor
GIF_COLOURS = 256
PALETTE_FRAMES = 64  # frames, spread over the video, for the common palette


def check_format(path: Path) -> None:
    """Checks, before anything is played, that a video can be written to `path`.

    Raises:
        UsageError: the ending is neither .gif nor .mp4, a package is missing, or the folder does not exist.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise UsageError(f"--output {path}: must end in .gif or .mp4")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UsageError(f"--output {path}: MP4 needs the package imageio-ffmpeg: pip install imageio-ffmpeg, or write a .gif")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}")


def write_video(path: Path, frames: Sequence[npt.NDArray[np.uint8]], fps: float) -> None:
    """Writes frames, uint8[height, width, 3], at `fps` frames per second, in the format of the path's ending.

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
    # One palette for all frames, so that Pillow stores only the changed rectangle of each frame.
    sample = np.concatenate(frames[:: -(-len(frames) // PALETTE_FRAMES)])
    palette = Image.fromarray(sample).quantize(GIF_COLOURS)
    height, width, _ = frames[0].shape
    first, *rest = (
        Image.fromarray(frame)
        .quantize(palette=palette, dither=Image.Dither.NONE)
        .resize((scale * width, scale * height), Image.Resampling.NEAREST)
        for frame in frames
    )
    hundredths = max(2, round(100 / fps))  # a GIF's unit of time; below 2, browsers play slower
    first.save(path, save_all=True, append_images=rest, duration=10 * hundredths, loop=0, optimize=False)

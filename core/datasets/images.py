"""Reads an image file as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from core.config import ConfigError
from core.errors import beginning, first_line


def read_image(file: Path, size: int, *, as_shown: bool = False) -> NDArray[np.uint8]:
    """An image file as uint8 [3, size, size]. Raises ConfigError with its name if it is unreadable.

    as_shown: rotate the image by its EXIF tag and put it on white if it is transparent, as every
    viewer does. Not for releases: the papers' loaders (torchvision) ignore both.
    """
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # conversion would turn nearly every pixel white
                raise ValueError(f"mode {image.mode}, expected 8 bits per channel")
            whole = _as_shown(image) if as_shown else image
            square = whole.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow raises a dozen types for a damaged file
        raise ConfigError(f"{file}: unreadable image ({_reason(file, error)})") from None
    return np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)


def _as_shown(image: Image.Image) -> Image.Image:
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a damaged tag is ignored; damaged pixels raise again below
        image.load()
    if not image.has_transparency_data:
        return image
    drawn = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)


def _reason(file: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image format that Pillow knows: {beginning(file)}"
    return first_line(error)

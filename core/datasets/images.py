"""One image file as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from core.config import ConfigError
from core.errors import beginning, first_line


def read_image(file: Path, size: int, *, as_shown: bool = False) -> NDArray[np.uint8]:
    """One file as uint8 [3, size, size]. Raises ConfigError naming a file that cannot be read.

    as_shown: turned as its EXIF tag says and on white where it is transparent, as every viewer
    shows it. Releases are read without: the papers' loaders (torchvision's) ignore both.
    """
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # converting would saturate nearly every pixel to white
                raise ValueError(f"mode {image.mode}, expected 8 bits per channel")
            whole = _as_shown(image) if as_shown else image
            square = whole.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow raises a dozen types for a damaged file
        raise ConfigError(f"{file}: unreadable image ({_reason(file, error)})") from None
    return np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)


def _as_shown(image: Image.Image) -> Image.Image:
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a damaged tag says nothing; damaged pixels are found by what follows
        image.load()
    if not image.has_transparency_data:
        return image
    drawn = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)


def _reason(file: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture that Pillow knows: {beginning(file)}"
    return first_line(error)

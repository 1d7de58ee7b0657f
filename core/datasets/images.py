"""One image file as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.config import ConfigError


def read_image(file: Path, size: int) -> NDArray[np.uint8]:
    """One file as uint8 [3, size, size]. Raises ConfigError naming a file that cannot be read."""
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # converting would saturate nearly every pixel to white
                raise ValueError(f"mode {image.mode}, expected 8 bits per channel")
            square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{file}: unreadable image ({error})") from None
    return np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)

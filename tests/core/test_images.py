"""Image files as pixels: transparency, and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.config import ConfigError
from core.datasets.images import read_image

SIZE = 16


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path: Path, mode: str) -> None:
    """What colour lies under them is an accident of the program that wrote the file."""
    image = Image.new("RGBA", (20, 20), (90, 90, 90, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 20))
    if mode == "P":
        indexed = Image.new("P", (20, 20), 1)
        indexed.putpalette([0, 0, 0, 90, 90, 90])
        indexed.paste(0, (0, 0, 10, 20))
        indexed.save(tmp_path / "x.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as written:
        assert written.mode == mode
    pixels = read_image(tmp_path / "x.png", 20, as_shown=True)
    assert (pixels[:, :, 0] == 255).all() and (pixels[:, :, -1] == 90).all()


def test_a_damaged_tag_does_not_hide_damaged_pixels(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, exif=exif)
    file.write_bytes(file.read_bytes()[:-800])
    with pytest.raises(ConfigError, match=r"unreadable image .*truncated"):
        read_image(file, SIZE, as_shown=True)

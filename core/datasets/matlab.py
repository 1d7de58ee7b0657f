"""Readers of releases with lists in MATLAB files: Stanford Cars, Stanford Dogs, Flowers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.config import ConfigError
from core.datasets.listing import Item, Listing, file_in, labelled
from core.errors import beginning, first_line


def _column(file: Path, *path: str) -> list[Any]:
    """A variable of a .mat file, or a field of its structs, as a flat list.

    Raises ConfigError if the file is damaged or lacks it.
    """
    import numpy as np  # 0.3 s to import with scipy, and most commands read no .mat file
    from scipy.io import loadmat

    value: Any
    try:
        value = loadmat(file, squeeze_me=True)
    except Exception as error:  # scipy raises many types for a damaged file
        reason = f"{beginning(file)}; {first_line(error)}"
        raise ConfigError(f"{file}: not a readable MATLAB file ({reason})") from None
    for name in path:
        known = value if isinstance(value, dict) else value.dtype.names or ()
        if name not in known:
            raise ConfigError(f"{file}: expected {'.'.join(path)}, there is no '{name}'")
        value = value[name]
    return list(np.atleast_1d(value))


def cars(root: Path) -> Listing:
    """cars_train/, cars_test/ and devkit/; the labelled test annotations may be in devkit/ or
    beside it."""
    classes = list(map(str, _column(file_in(root, "devkit/cars_meta.mat"), "class_names")))
    annotations = {
        "train": ("devkit/cars_train_annos.mat",),
        "test": ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"),
    }
    parts = {}
    for part, places in annotations.items():
        file = file_in(root, *places)
        folder = f"cars_{part}"
        if (root / folder / folder).is_dir():  # as some mirrors pack it
            folder = f"{folder}/{folder}"
        names = [f"{folder}/{name}" for name in _column(file, "annotations", "fname")]
        labels = _column(file, "annotations", "class")
        parts[part] = labelled(names, labels, len(classes), file)
    return Listing(classes, parts)


def dogs(root: Path) -> Listing:
    """Images/<breed>/ and {train,test}_list.mat beside Images/ or in lists/."""
    parts: dict[str, list[Item]] = {}
    names: dict[int, str] = {}
    for part in ("train", "test"):
        file = file_in(root, f"{part}_list.mat", f"lists/{part}_list.mat")
        files = list(map(str, _column(file, "file_list")))
        labels = list(map(int, _column(file, "labels")))
        names |= {label: name.partition("/")[0] for name, label in zip(files, labels, strict=True)}
        images = [f"Images/{name}" for name in files]
        parts[part] = labelled(images, labels, max(names, default=0), file)
    return Listing([names[label] for label in sorted(names)], parts)


def flowers(root: Path) -> Listing:
    """jpg/image_<number>.jpg, imagelabels.mat (a class per image) and setid.mat (image numbers per
    part)."""
    labels = list(map(int, _column(file_in(root, "imagelabels.mat"), "labels")))
    classes = max(labels, default=0)
    file = file_in(root, "setid.mat")
    parts = {}
    for part, name in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        numbers = list(map(int, _column(file, name)))
        beyond = [number for number in numbers if not 0 < number <= len(labels)]
        if beyond:
            raise ConfigError(
                f"{file}: {name}: expected images 1..{len(labels)}, got image {beyond[0]}"
            )
        images = [f"jpg/image_{number:05d}.jpg" for number in numbers]
        parts[part] = labelled(images, (labels[n - 1] for n in numbers), classes, file)
    return Listing([str(number) for number in range(1, classes + 1)], parts)

"""Miniatures of the releases in their real formats: folder names, lists, MATLAB files.

With them, all readers and runs can be checked on a machine without the data. Images are plain
colours, one hue per class. Their number differs from the release's, so `write` returns a matching
entry.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.config.datasets import Entry, entries
from core.datasets import arrays
from core.datasets.own import SPLITS
from core.datasets.read import read_release
from core.store.folders import Store

SYNSETS = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)


def colour(label: int, classes: int) -> tuple[int, int, int]:
    """The RGB colour of a class's images."""
    red, green, blue = colorsys.hsv_to_rgb(label / classes, 0.8, 0.9)
    return int(red * 255), int(green * 255), int(blue * 255)


def write(name: str, folder: Path, *, classes: int = 3, each: int = 8) -> Entry:
    """Write the miniature of a dataset below `folder`, with `each` images per class and official
    part. classes: 2 to 10. Returns the dataset's entry with the miniature's numbers."""
    labels = [label for label in range(classes) for _ in range(each)]
    entry = entries()[name]
    parts = {part: len(labels) for part in entry.parts}
    WRITERS[name](folder, classes, labels)
    numbers = {"classes": classes, "parts": parts}
    if entry.train_each is not None:
        numbers["train_each"] = each // 2
    if entry.test_images is not None:
        numbers["test_images"] = classes * 2
    small = entry.model_copy(update=numbers)
    return small.model_copy(update={"splits": sizes(small)})


def sizes(entry: Entry) -> dict[str, int]:
    """The number of images in each split, from the parts and rules of an entry."""
    parts = dict(entry.parts)
    if entry.test_share is not None:
        parts["test"] = math.ceil(parts["all"] * entry.test_share)
        parts["train"] = parts["all"] - parts["test"]
    if entry.train_each is not None:
        parts["train"] = entry.classes * entry.train_each
        parts["test"] = parts["all"] - parts["train"]
    if entry.val_share is not None:
        parts["val"] = math.ceil(parts["train"] * entry.val_share)
        parts["train"] -= parts["val"]
    if entry.test_images is not None:
        parts["test"] = min(parts["test"], entry.test_images)
    return {split: parts[split] for split in SPLITS}


def furnish(name: str, store: Store, size: int, folder: Path) -> None:
    """Write a miniature below `folder`, read it like a release, and prepare arrays in `store`."""
    entry = write(name, folder)
    arrays.prepare(name, read_release(name, folder, entry), size, store, miniature=True)


def write_folder(folder: Path, *, classes: int, each: int) -> None:
    """Write a folder of images like a user's: {train,val,test}/<class>/<image>."""
    for split in SPLITS:
        for label in range(classes):
            for number in range(each):
                _save(folder / split / f"class_{label}" / f"{number}.jpg", label, classes)


def _save(file: Path, label: int, classes: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour(label, classes)).save(file, quality=95)


def _text(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _cell(values: Sequence[object]) -> np.ndarray[tuple[int, int], np.dtype[np.object_]]:
    """A column of values as a MATLAB cell array."""
    cell = np.empty((len(values), 1), dtype=object)
    cell[:, 0] = values
    return cell


def _mat(file: Path, **variables: object) -> None:
    from scipy.io import savemat

    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, variables)


def _aircraft(folder: Path, classes: int, labels: list[int]) -> None:
    data = folder / "fgvc-aircraft-2013b" / "data"
    variants = [f"7{label}7-200 Mk {label}" for label in range(classes)]
    _text(data / "variants.txt", variants)
    for first, part in ((1_000_000, "train"), (56_000, "val"), (2_000_000, "test")):
        numbers = [f"{first + i:07d}" for i in range(len(labels))]
        for number, label in zip(numbers, labels, strict=True):
            _save(data / "images" / f"{number}.jpg", label, classes)
        rows = [f"{n} {variants[label]}" for n, label in zip(numbers, labels, strict=True)]
        _text(data / f"images_variant_{part}.txt", rows)


def _caltech256(folder: Path, classes: int, labels: list[int]) -> None:
    root = folder / "256_ObjectCategories"
    names = [f"{i + 1:03d}.{n}" for i, n in enumerate(("ak47", *("x",) * (classes - 2)))]
    for i, label in enumerate(labels):
        name = "257.clutter" if label == classes - 1 else names[label]
        _save(root / name / f"{name[:3]}_{i:04d}.jpg", label, classes)
    _text(root / "001.ak47" / "RENAME2", ["a stray file, as the release has one"])


def _caltech101(folder: Path, classes: int, labels: list[int]) -> None:
    root = folder / "caltech-101" / "101_ObjectCategories"
    names = ["accordion", *(f"category{i}" for i in range(classes - 2)), "yin_yang"]
    for i, label in enumerate(labels):
        number = i - labels.index(label) + 1
        _save(root / names[label] / f"image_{number:04d}.jpg", label, classes)
    _save(root / "BACKGROUND_Google" / "image_0001.jpg", 0, classes)
    _mat(folder / "caltech-101" / "Annotations" / "accordion" / "annotation_0001.mat", x=1)


def _cars(folder: Path, classes: int, labels: list[int]) -> None:
    makes = [f"Make {label} Sedan 2012" for label in range(classes)]
    _mat(folder / "devkit" / "cars_meta.mat", class_names=_cell(makes).T)
    fields = [(field, object) for field in ("bbox_x1", "class", "fname")]
    places = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for part, place in places.items():
        annotations = np.zeros((1, len(labels)), dtype=fields)
        for i, label in enumerate(labels):
            file = f"{i + 1:05d}.jpg"
            annotations[0, i] = (np.array([[39]]), np.array([[label + 1]], dtype=np.uint8), file)
            _save(folder / f"cars_{part}" / file, label, classes)
        _mat(folder / place, annotations=annotations)


def _cub(folder: Path, classes: int, labels: list[int]) -> None:
    root = folder / "CUB_200_2011"
    birds = [f"{label + 1:03d}.Black_footed_Bird_{label}" for label in range(classes)]
    images = [
        (flag, label, f"{birds[label]}/Bird_{flag}_{i:04d}_18.jpg")
        for flag in (1, 0)
        for i, label in enumerate(labels)
    ]
    for _, label, path in images:
        _save(root / "images" / path, label, classes)
    _text(root / "classes.txt", [f"{i} {bird}" for i, bird in enumerate(birds, start=1)])
    _text(root / "images.txt", [f"{i} {row[2]}" for i, row in enumerate(images, start=1)])
    labelled = [f"{i} {row[1] + 1}" for i, row in enumerate(images, start=1)]
    _text(root / "image_class_labels.txt", labelled)
    _text(root / "train_test_split.txt", [f"{i} {r[0]}" for i, r in enumerate(images, start=1)])


def _dogs(folder: Path, classes: int, labels: list[int]) -> None:
    breeds = ["n02085620-Chihuahua", *(f"n02086{i:03d}-breed_{i}" for i in range(1, classes))]
    for part in ("train", "test"):
        names = [f"{breeds[x]}/{breeds[x][:9]}_{part}{i}" for i, x in enumerate(labels)]
        for name, label in zip(names, labels, strict=True):
            _save(folder / "Images" / f"{name}.jpg", label, classes)
        _mat(
            folder / f"{part}_list.mat",
            file_list=_cell([f"{name}.jpg" for name in names]),
            annotation_list=_cell(names),
            labels=np.array([[label + 1] for label in labels], dtype=np.uint8),
        )


def _imagenette(folder: Path, classes: int, labels: list[int]) -> None:
    for part in ("train", "val"):
        for i, label in enumerate(labels):
            file = f"{SYNSETS[label]}_{i}.JPEG"
            _save(folder / "imagenette2" / part / SYNSETS[label] / file, label, classes)
    _text(folder / "imagenette2" / "noisy_imagenette.csv", ["path,noisy_labels_0"])


def _flowers(folder: Path, classes: int, labels: list[int]) -> None:
    everything = labels * 3
    for number, label in enumerate(everything, start=1):
        _save(folder / "jpg" / f"image_{number:05d}.jpg", label, classes)
    _mat(folder / "imagelabels.mat", labels=np.array([everything], dtype=np.uint8) + 1)
    numbers = np.arange(1, len(everything) + 1, dtype=np.uint16).reshape(3, 1, -1)
    _mat(folder / "setid.mat", trnid=numbers[0], valid=numbers[1], tstid=numbers[2])


def _pets(folder: Path, classes: int, labels: list[int]) -> None:
    breeds = [f"{'abcdefghij'[label]}_great_breed" for label in range(classes)]
    for part, first in (("trainval", 0), ("test", 1000)):
        names = [f"{breeds[label]}_{first + i}" for i, label in enumerate(labels)]
        for name, label in zip(names, labels, strict=True):
            _save(folder / "images" / f"{name}.jpg", label, classes)
        rows = [f"{n} {label + 1} 1 {label + 1}" for n, label in zip(names, labels, strict=True)]
        _text(folder / "annotations" / f"{part}.txt", rows)
    _text(folder / "annotations" / "list.txt", ["#Image CLASS-ID SPECIES BREED ID"])


def _ucmerced(folder: Path, classes: int, labels: list[int]) -> None:
    names = ["agricultural", *(f"kind{i}" for i in range(classes - 2)), "tenniscourt"]
    for i, label in enumerate(labels):
        file = folder / "UCMerced_LandUse" / "Images" / names[label] / f"{names[label]}{i:02d}.tif"
        _save(file, label, classes)


WRITERS: dict[str, Callable[[Path, int, list[int]], None]] = {
    "aircraft": _aircraft,
    "caltech256": _caltech256,
    "cars": _cars,
    "cub": _cub,
    "dogs": _dogs,
    "imagenette": _imagenette,
    "caltech101": _caltech101,
    "flowers": _flowers,
    "pets": _pets,
    "ucmerced": _ucmerced,
}

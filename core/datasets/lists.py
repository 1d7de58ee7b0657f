"""Readers of releases with lists in text files: FGVC-Aircraft, CUB-200-2011, Pets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.config import ConfigError
from core.datasets.listing import Item, Listing, file_in, labelled


def _rows(file: Path, form: str) -> Iterator[list[str]]:
    """The lines of a file, split into the words that `form` names; the last takes the rest of the
    line. Empty lines and comments (#) are skipped. Raises ConfigError if a line has fewer words.
    """
    fields = form.count(" ") + 1
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: expected a text file") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=fields - 1)
        if len(words) < fields:
            raise ConfigError(f"{file}:{number}: expected '{form}', got {line!r}")
        yield [word.strip() for word in words]


def _numbers(file: Path, form: str) -> Iterator[tuple[str, int]]:
    """(NAME, NUMBER) of 'NAME NUMBER ...' lines. Raises ConfigError if NUMBER is not a whole
    number."""
    for words in _rows(file, form):
        if not words[1].isdecimal():
            raise ConfigError(f"{file}: expected '{form}', got {' '.join(words)!r}")
        yield words[0], int(words[1])


def aircraft(root: Path) -> Listing:
    """data/ of the release: variants.txt and images_variant_{train,val,test}.txt."""
    file = file_in(root, "variants.txt")
    classes = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    number = {name: label for label, name in enumerate(classes, start=1)}
    parts = {}
    for part in ("train", "val", "test"):
        file = file_in(root, f"images_variant_{part}.txt")
        rows = list(_rows(file, "IMAGE VARIANT"))
        unknown = [variant for _, variant in rows if variant not in number]
        if unknown:
            raise ConfigError(f"{file}: expected a variant of variants.txt, got '{unknown[0]}'")
        names = [f"images/{image}.jpg" for image, _ in rows]
        parts[part] = labelled(names, (number[v] for _, v in rows), len(classes), file)
    return Listing(classes, parts)


def cub(root: Path) -> Listing:
    """CUB_200_2011/: images.txt, image_class_labels.txt and train_test_split.txt, joined by id."""
    classes = [name for _, name in _rows(file_in(root, "classes.txt"), "CLASS NAME")]
    paths = {i: name for i, name in _rows(file_in(root, "images.txt"), "IMAGE PATH")}
    of_image = {}
    for name in ("image_class_labels.txt", "train_test_split.txt"):
        file = file_in(root, name)
        of_image[name] = dict(_numbers(file, "IMAGE NUMBER"))
        differing = of_image[name].keys() ^ paths.keys()
        if differing:
            raise ConfigError(
                f"{file}: expected the {len(paths)} images of images.txt, "
                f"{len(differing)} differ, among them image {min(differing)}"
            )
    labels, training = of_image.values()
    parts = {}
    for part, flag in (("train", 1), ("test", 0)):
        ids = [i for i in paths if training[i] == flag]
        names = [f"images/{paths[i]}" for i in ids]
        parts[part] = labelled(names, (labels[i] for i in ids), len(classes), root)
    return Listing(classes, parts)


def pets(root: Path) -> Listing:
    """annotations/{trainval,test}.txt: IMAGE CLASS SPECIES BREED; images/ beside them."""
    parts: dict[str, list[Item]] = {}
    names: dict[int, str] = {}
    for part, name in (("train", "trainval"), ("test", "test")):
        file = file_in(root, f"annotations/{name}.txt")
        rows = list(_numbers(file, "IMAGE CLASS SPECIES BREED"))
        names |= {label: image.rpartition("_")[0] for image, label in rows}
        images = [f"images/{image}.jpg" for image, _ in rows]
        parts[part] = labelled(images, (label for _, label in rows), max(names, default=0), file)
    return Listing([names[label] for label in sorted(names)], parts)

"""Readers of the benchmark's datasets, on miniatures true to the releases' formats."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from core.config import ConfigError
from core.config.datasets import Entry, entries
from core.datasets import miniature
from core.datasets.images import read_image
from core.datasets.read import READERS, Contents, read_release

NAMES = tuple(entries())
CLASSES, EACH = 4, 8


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def release(name: str, folder: Path) -> Entry:
    return miniature.write(name, folder, classes=CLASSES, each=EACH)


def label_of(file: Path) -> int:
    """The class whose colour an image has."""
    pixel = read_image(file, 8)[:, 4, 4].astype(int)
    distances = [
        np.abs(pixel - np.array(miniature.colour(label, CLASSES))).sum() for label in range(CLASSES)
    ]
    assert min(distances) < 25
    return int(np.argmin(distances))


def items(contents: Contents) -> list[tuple[str, int]]:
    return [item for split in contents.splits.values() for item in split]


def test_every_dataset_has_a_reader_and_a_miniature() -> None:
    assert set(READERS) == set(miniature.WRITERS) == set(NAMES)


def test_labels_are_those_of_the_images(name: str, tmp_path: Path) -> None:
    """The reader joins files and labels as the release means it: the pixels know the class."""
    entry = release(name, tmp_path)
    contents = read_release(name, tmp_path, entry)
    found = items(contents)
    assert len({path for path, _ in found}) == len(found), "an image is in two splits"
    assert all(label_of(contents.root / path) == label for path, label in found)
    assert len(contents.classes) == len(set(contents.classes)) == CLASSES
    assert {split: len(rows) for split, rows in contents.splits.items()} == entry.splits
    for split in ("train", "test"):
        counts = Counter(label for _, label in contents.splits[split])
        assert (
            set(counts) == set(range(CLASSES)) and max(counts.values()) - min(counts.values()) <= 1
        )


def test_official_parts_are_not_mixed(tmp_path: Path) -> None:
    """Where the release has a test part, no image of it is trained on."""
    parts = {
        "aircraft": lambda path: {"1": "train", "0": "val", "2": "test"}[path[7]],
        "cars": lambda path: path[5 : path.index("/")],
        "cub": lambda path: {"1": "train", "0": "test"}[path.rsplit("_", 3)[1]],
        "dogs": lambda path: "test" if "_test" in path else "train",
        "imagenette": lambda path: "test" if path.startswith("val/") else "train",
        "pets": lambda path: "test" if int(path[:-4].rpartition("_")[2]) >= 1000 else "train",
    }
    for name, part in parts.items():
        contents = read_release(name, tmp_path / name, release(name, tmp_path / name))
        for split, rows in contents.splits.items():
            official = "train" if split == "val" and name != "aircraft" else split
            assert {part(path) for path, _ in rows} == {official}, (name, split)


@pytest.mark.parametrize("around", ["", "downloads"])
def test_the_root_is_found_below_the_folder(name: str, tmp_path: Path, around: str) -> None:
    entry = release(name, tmp_path / around)
    assert len(items(read_release(name, tmp_path, entry))) == sum(entry.splits.values())


def test_two_releases_side_by_side_are_refused(name: str, tmp_path: Path) -> None:
    """Neither is taken for the order of the alphabet; a hidden copy is not looked at."""
    entry = release(name, tmp_path / "a")
    release(name, tmp_path / ".trash")
    assert items(read_release(name, tmp_path, entry))
    release(name, tmp_path / "b")
    message = one_line(name, tmp_path, entry)
    assert (
        f"expected one {entry.title}, found {tmp_path}/a" in message and f"{tmp_path}/b" in message
    )


def test_reading_twice_and_elsewhere_gives_the_same(name: str, tmp_path: Path) -> None:
    one = read_release(name, tmp_path / "one", release(name, tmp_path / "one"))
    two = read_release(name, tmp_path / "two", release(name, tmp_path / "two"))
    assert one.splits == two.splits and one.classes == two.classes


# Other layouts that are in circulation.


def test_cars_as_mirrors_pack_them(tmp_path: Path) -> None:
    entry = release("cars", tmp_path)
    plain = read_release("cars", tmp_path, entry)
    for part in ("train", "test"):
        folder = tmp_path / f"cars_{part}"
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (tmp_path / "moved").rename(folder / folder.name)
    labels = "cars_test_annos_withlabels.mat"
    (tmp_path / labels).rename(tmp_path / "devkit" / labels)
    nested = read_release("cars", tmp_path, entry)
    assert [row[1] for row in nested.splits["test"]] == [row[1] for row in plain.splits["test"]]
    assert all(label_of(tmp_path / path) == label for path, label in items(nested))


def test_dogs_with_a_lists_folder(tmp_path: Path) -> None:
    entry = release("dogs", tmp_path)
    plain = read_release("dogs", tmp_path, entry)
    (tmp_path / "lists").mkdir()
    for part in ("train", "test"):
        (tmp_path / f"{part}_list.mat").rename(tmp_path / "lists" / f"{part}_list.mat")
    assert read_release("dogs", tmp_path, entry).splits == plain.splits


def test_stray_files_are_left_out(tmp_path: Path) -> None:
    for name in ("caltech256", "caltech101", "ucmerced", "imagenette"):
        entry = release(name, tmp_path / name)
        contents = read_release(name, tmp_path / name, entry)
        folder = (contents.root / contents.splits["train"][0][0]).parent
        suffix = contents.splits["train"][0][0].rpartition(".")[2]
        (folder / "Thumbs.db").write_text("x")
        (folder / f"._image.{suffix}").write_text("resource fork")
        (folder.parent / ".DS_Store").write_text("x")
        assert read_release(name, tmp_path / name, entry).splits == contents.splits
        shutil.copy(contents.root / contents.splits["train"][0][0], folder / f"zzz.{suffix}")
        with pytest.raises(ConfigError, match=rf"expected .*{CLASSES * EACH}.* images"):
            read_release(name, tmp_path / name, entry)


# What can be wrong with a folder: one line each, with the place.


def one_line(name: str, folder: Path, entry: Entry) -> str:
    with pytest.raises(ConfigError) as error:
        read_release(name, folder, entry)
    assert len(error.value.lines) == 1 and "\n" not in str(error.value)
    return str(error.value)


def test_the_real_counts_are_asked_of_a_miniature(name: str, tmp_path: Path) -> None:
    """Without its own entry a miniature is what it looks like: an incomplete release."""
    release(name, tmp_path)
    message = one_line(name, tmp_path, entries()[name])
    assert f"expected {entries()[name].classes} classes, found {CLASSES}" in message


def test_wrong_counts(name: str, tmp_path: Path) -> None:
    entry = release(name, tmp_path)
    part = next(iter(entry.parts))
    wrong = entry.model_copy(update={"parts": entry.parts | {part: 99}})
    message = one_line(name, tmp_path, wrong)
    assert "expected 99 " in message and f"found {CLASSES * EACH} " in message


def test_a_missing_image(name: str, tmp_path: Path) -> None:
    entry = release(name, tmp_path)
    contents = read_release(name, tmp_path, entry)
    gone = contents.splits["train"][0][0]
    (contents.root / gone).unlink()
    message = one_line(name, tmp_path, entry)
    if name in ("caltech256", "caltech101", "ucmerced", "imagenette"):  # nothing lists the images
        assert f"found {CLASSES * EACH - 1} " in message
    else:
        total = sum(entry.parts.values())
        assert f"1 of {total} listed images are missing, the first is {gone}" in message


def test_a_partial_extraction_without_images(tmp_path: Path) -> None:
    folders = {"aircraft": "images", "cub": "images", "pets": "images", "cars": "cars_test"}
    for name, folder in folders.items():
        entry = release(name, tmp_path / name)
        shutil.rmtree(read_release(name, tmp_path / name, entry).root / folder)
        assert "(a partial extraction?)" in one_line(name, tmp_path / name, entry)


def test_another_folder(name: str, tmp_path: Path) -> None:
    entry = entries()[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "photos" / "2012").mkdir(parents=True)
    assert "found nothing" in one_line(name, tmp_path / "empty", entry)
    message = one_line(name, tmp_path / "other", entry)
    assert "found photos" in message and entry.marks[0] in message
    message = one_line(name, tmp_path / "none", entry)
    assert message.startswith(f"{tmp_path}/none: no such folder") and f"prepare {name}" in message


def mat_lists(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.mat") if "Annotations" not in path.parts)


@pytest.mark.parametrize("name", ["cars", "dogs", "flowers"])
def test_a_damaged_matlab_file(name: str, tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / str(number)
        entry = release(name, folder)
        lists = mat_lists(folder)
        if number >= len(lists):
            break
        file = lists[number]
        for content in (file.read_bytes()[:150], b"<html>404</html>", b""):
            file.write_bytes(content)
            assert str(file) in one_line(name, folder, entry)


def test_matlab_files_of_another_kind(tmp_path: Path) -> None:
    entry = release("flowers", tmp_path)
    savemat(tmp_path / "setid.mat", {"trnid": [[1]], "valid": [[2]]})
    assert "there is no 'tstid'" in one_line("flowers", tmp_path, entry)
    savemat(tmp_path / "setid.mat", {"trnid": [[1]], "valid": [[0]], "tstid": [[2]]})
    assert "expected images 1..96, got image 0" in one_line("flowers", tmp_path, entry)
    entry = release("cars", tmp_path)
    labelled = tmp_path / "cars_test_annos_withlabels.mat"
    bare = np.zeros((1, 2), dtype=[("bbox_x1", object), ("fname", object)])
    savemat(labelled, {"annotations": bare})
    assert "there is no 'class'" in one_line("cars", tmp_path, entry)


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def cut_lists(root: Path) -> tuple[Path, str]:
    file = root / "image_class_labels.txt"
    file.write_text("".join(file.read_text().splitlines(True)[:-2]))
    return file, "expected the 64 images of images.txt, 2 differ"


def no_class(root: Path) -> tuple[Path, str]:
    edited(root / "image_class_labels.txt", "3 1\n", "3 9\n")
    return root, "expected a class in 1..4, got 9"


def no_number(root: Path) -> tuple[Path, str]:
    edited(root / "train_test_split.txt", "3 1\n", "3 x\n")
    return root / "train_test_split.txt", "expected 'IMAGE NUMBER', got '3 x'"


def no_path(root: Path) -> tuple[Path, str]:
    edited(root / "images.txt", "3 001.Black_footed_Bird_0/Bird_1_0002_18.jpg", "3")
    return root / "images.txt", ":3: expected 'IMAGE PATH', got '3'"


def no_text(root: Path) -> tuple[Path, str]:
    (root / "classes.txt").write_bytes(b"\xff\xfe\x00")
    return root / "classes.txt", "expected a text file"


@pytest.mark.parametrize("spoil", [cut_lists, no_class, no_number, no_path, no_text])
def test_damaged_text_files(spoil: Callable[[Path], tuple[Path, str]], tmp_path: Path) -> None:
    entry = release("cub", tmp_path)
    place, message = spoil(tmp_path / "CUB_200_2011")
    found = one_line("cub", tmp_path, entry)
    assert found.startswith(str(place)) and message in found


def test_an_unknown_variant(tmp_path: Path) -> None:
    entry = release("aircraft", tmp_path)
    file = next(tmp_path.rglob("images_variant_val.txt"))
    edited(file, "737-200", "707-320")
    message = one_line("aircraft", tmp_path, entry)
    assert "images_variant_val.txt: expected a variant" in message
    assert message.endswith("got '707-320 Mk 3'")


def test_a_class_without_images(tmp_path: Path) -> None:
    entry = release("pets", tmp_path)
    for part in ("trainval", "test"):
        file = tmp_path / "annotations" / f"{part}.txt"
        file.write_text(file.read_text().replace(" 4 1 4", " 5 1 5"))
    assert "no image of class 'd_great_breed'" in one_line("pets", tmp_path, entry)


# Files as the releases really have them.


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grayscale_and_cmyk_files(name: str, tmp_path: Path, mode: str) -> None:
    entry = release(name, tmp_path)
    contents = read_release(name, tmp_path, entry)
    path, label = contents.splits["train"][0]
    file = contents.root / path
    with Image.open(file) as image:
        image.convert(mode).save(file)
    with Image.open(file) as image:
        assert image.mode == mode
    pixels = read_image(file, 16)
    assert pixels.shape == (3, 16, 16)
    if mode == "L":
        assert (pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all()
    else:
        assert label_of(file) == label


def test_real_lists_are_what_matlab_writes(tmp_path: Path) -> None:
    """The shapes that the real files have, so that the readers meet the real thing."""
    for name in ("cars", "dogs", "flowers"):
        release(name, tmp_path / name)
    meta = loadmat(tmp_path / "cars" / "devkit" / "cars_meta.mat")["class_names"]
    assert meta.shape == (1, CLASSES) and meta[0, 0].shape == (1,)
    annotations = loadmat(tmp_path / "cars" / "devkit" / "cars_train_annos.mat")["annotations"]
    assert annotations.shape == (1, CLASSES * EACH)
    assert annotations[0, 0]["fname"][0] == "00001.jpg" and annotations[0, 0]["class"] == [[1]]
    breeds = loadmat(tmp_path / "dogs" / "train_list.mat")
    assert breeds["file_list"].shape == (CLASSES * EACH, 1)
    assert breeds["file_list"][0][0][0].startswith("n02085620-Chihuahua/n02085620_")
    assert breeds["labels"].shape == (CLASSES * EACH, 1)
    flowers = loadmat(tmp_path / "flowers" / "imagelabels.mat")["labels"]
    assert flowers.shape == (1, CLASSES * EACH * 3) and flowers.min() == 1
    assert os.path.isfile(tmp_path / "flowers" / "jpg" / "image_00001.jpg")

"""Datasets: folders of real image files, prepared once and shared; every bad one is one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, features

from core.config import ConfigError, RunConfig
from core.data import splits
from core.data.inputs import missing
from core.data.splits import Dataset, Split
from core.store.folders import Store

SIZE = 16
COLOURS = {"blue": (20, 40, 200), "red": (210, 30, 40), "sand": (180, 170, 120)}


def picture(colour: tuple[int, int, int], *, width: int = 24, height: int = 20) -> Image.Image:
    """One colour with a darker band on the left quarter, so that mirroring would show."""
    image = Image.new("RGB", (width, height), colour)
    image.paste(tuple(c // 2 for c in colour), (0, 0, width // 4, height))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, two files each in train, one each in val and test; PNG and JPEG."""
    root = tmp_path / "birds"
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for name, colour in COLOURS.items():
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                picture(colour).save(place / f"{i}{('.png', '.JPG')[i]}", quality=95)
    return root


def config(folder: Path | str, size: int = SIZE) -> RunConfig:
    return tiny.config(dataset=str(folder), image_size=size)


def load(folder: Path, store: Store, **options: Any) -> Dataset:
    return splits.load(config(folder), store, **options)


def test_a_folder_of_images(folder: Path, store: Store) -> None:
    loaded = load(folder, store)
    assert (loaded.name, loaded.classes) == ("birds", 3)
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [6, 3, 3]
    assert sorted(loaded.train.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert loaded.train.images.shape == (6, 3, SIZE, SIZE)
    assert loaded.train.images.dtype == torch.uint8
    for split in (loaded.train, loaded.val, loaded.test):
        for image, label in zip(split.images, split.labels, strict=True):
            colour = torch.tensor(COLOURS[sorted(COLOURS)[int(label)]])
            assert (image[:, :, -1].float() - colour[:, None]).abs().max() <= 6, "JPEG is close"
            assert (image[:, :, 0].float() - colour[:, None] / 2).abs().max() <= 8, "mirrored"


def test_the_first_images_of_a_folder_are_of_all_classes(folder: Path, store: Store) -> None:
    """Where only some are attacked, and where each type of corruption has a block of its own."""
    for file in list((folder / "val").glob("*/0.png")):
        for copy in range(1, 20):
            shutil.copy(file, file.with_name(f"{copy}.png"))
    labels = load(folder, store).val.labels
    assert len(labels) == 60 and set(labels[:12].tolist()) == {0, 1, 2}
    assert torch.equal(labels, load(folder, store).val.labels)


def test_batches_are_floats_from_zero_to_one() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(3, 3, 1, 1)
    x, y = Split(images, torch.tensor([5, 6, 7])).batch(torch.tensor([2, 0]), tiny.CPU)
    assert x.dtype == torch.float32 and x.shape == (2, 3, 16, 16) and y.tolist() == [7, 5]
    assert float(x.min()) == 0 and float(x.max()) == 1
    assert torch.equal((x[0, 0] * 255).round().byte(), images[0, 0])


KINDS = {
    "png": ("L", "P", "1", "LA", "RGB", "RGBA"),
    "jpg": ("L", "RGB", "CMYK"),
    "bmp": ("RGB",),
    "ppm": ("RGB",),
    "tif": ("RGB", "CMYK"),
    "webp": ("RGB",),
}


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, modes in KINDS.items() for mode in modes]
)
def test_every_common_kind_of_file_becomes_rgb(tmp_path: Path, suffix: str, mode: str) -> None:
    if suffix == "webp" and not features.check("webp"):
        pytest.skip("this Pillow cannot write WebP")
    colour = {"L": (99,) * 3, "LA": (99,) * 3, "1": (255,) * 3}.get(mode, (200, 80, 40))
    file = tmp_path / f"x.{suffix}"
    Image.new("RGB", (32, 32), colour).convert(mode).save(file)
    with Image.open(file) as written:
        assert written.mode == mode, "saved as another kind: this test shows nothing"
    pixels = splits.read_image(file, SIZE)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, SIZE, SIZE)
    assert np.abs(pixels.astype(int) - np.array(colour).reshape(3, 1, 1)).max() <= 12


def test_sixteen_bits_are_refused_not_saturated(tmp_path: Path) -> None:
    file = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(file)
    with pytest.raises(ConfigError, match=r"deep.png: unreadable image \(mode I(;16)?, expected 8"):
        splits.read_image(file, SIZE)


def test_prepared_once_and_memory_mapped(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(folder, store)
    prepared = sorted((store.data / "prepared").iterdir())
    assert len(prepared) == 3 and all(not path.name.startswith(".") for path in prepared)

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(splits, "read_image", never)
    again = load(folder, store)
    assert torch.equal(first.train.images, again.train.images)
    maps = Path("/proc/self/maps").read_text()
    assert all(f"{path}/images.npy" in maps for path in prepared), "read, not mapped"
    again.train.images[0] = 0  # a private copy of the page: the file and other runs keep theirs
    assert torch.equal(first.train.images, load(folder, store).train.images)


def edit_pixels(folder: Path) -> None:
    picture((1, 2, 3)).save(folder / "train" / "red" / "0.png")


def touch(folder: Path) -> None:
    os.utime(folder / "val" / "red" / "0.png", (1, 1))


def add(folder: Path) -> None:
    shutil.copy(folder / "train" / "red" / "0.png", folder / "train" / "red" / "2.png")


def remove(folder: Path) -> None:
    (folder / "train" / "red" / "1.JPG").unlink()


@pytest.mark.parametrize("edit", [edit_pixels, touch, add, remove])
def test_an_edit_is_noticed(folder: Path, store: Store, edit: Callable[[Path], None]) -> None:
    before = load(folder, store)
    edit(folder)
    after = load(folder, store)
    assert len(list((store.data / "prepared").iterdir())) == 4
    if edit is edit_pixels:
        assert [1, 2, 3] in after.train.images[:, :, 0, -1].tolist()
    assert len(after.train) - len(before.train) == {add: 1, remove: -1}.get(edit, 0)


def test_another_size_is_another_array(folder: Path, store: Store) -> None:
    load(folder, store)
    other = splits.load(config(folder, size=24), store)
    assert other.test.images.shape == (3, 3, 24, 24)
    assert len(list((store.data / "prepared").iterdir())) == 6


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("how", ["cut", "other", "gone", "fewer"])
def test_damaged_arrays_are_one_line(folder: Path, store: Store, name: str, how: str) -> None:
    load(folder, store)
    (place,) = (
        p for p in (store.data / "prepared").iterdir() if len(np.load(p / "labels.npy")) > 3
    )
    file = place / name
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif how == "other":
        file.write_bytes(b"<html>404</html>" * 20)
    elif how == "gone":
        file.unlink()
    else:
        np.save(file, np.load(file)[:-1])
    with pytest.raises(ConfigError) as error:
        load(folder, store)
    (line,) = error.value.lines
    assert line.startswith(f"{place}: damaged arrays (") and "pickle" not in line
    shutil.rmtree(place)
    assert len(load(folder, store).train) == 6


def test_a_stage_is_a_copy_on_another_disk(folder: Path, store: Store, tmp_path: Path) -> None:
    stage = tmp_path / "fast"
    staged = load(folder, store, stage=stage)
    assert torch.equal(staged.train.images, load(folder, store).train.images)
    assert sorted(os.listdir(stage)) == sorted(os.listdir(store.data / "prepared"))
    assert f"{stage}/" in Path("/proc/self/maps").read_text()


def test_two_that_prepare_at_once_agree(tmp_path: Path) -> None:
    """The second one finds the folder in place when it is done, and leaves it."""
    place = tmp_path / "prepared" / "x"

    def slow(draft: Path) -> None:
        splits._publish(place, lambda other: (other / "by").write_text("first"))
        (draft / "by").write_text("second")

    splits._publish(place, slow)
    assert (place / "by").read_text() == "first"
    assert os.listdir(place.parent) == ["x"]


def test_a_name_lies_in_the_data_folder(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.data.mkdir(parents=True)
    shutil.move(folder, store.data / "cub")
    assert splits.load(tiny.config(dataset="cub", image_size=SIZE), store).classes == 3
    monkeypatch.chdir(store.data)
    with pytest.raises(ConfigError, match=f"write the full path: {store.data}/cub$"):
        config("./cub")
    assert splits.load(config(f"{store.data}/cub/"), store).classes == 3


def test_other_files_and_folders_are_left_alone(folder: Path, store: Store) -> None:
    (folder / "README.txt").write_text("birds")
    (folder / "train" / "list.csv").write_text("1,2")
    (folder / "train" / "red" / "Thumbs.db").write_text("x")
    assert len(load(folder, store).train) == 6


def absent(folder: Path) -> str:
    shutil.rmtree(folder)
    return r"birds: no such folder \(expected .*class>/\)"


def without_split(folder: Path) -> str:
    shutil.rmtree(folder / "val")
    return r"birds/val: no such folder \(expected .*found test, train\)"


def with_extra_class(folder: Path) -> str:
    shutil.copytree(folder / "test" / "red", folder / "test" / "green")
    return r"birds/test: expected the 3 class folders of train, 'green' is only there$"


def without_class(folder: Path) -> str:
    shutil.rmtree(folder / "val" / "blue")
    return r"birds/val: expected the 3 class folders of train, 'blue' is missing there$"


def empty_split(folder: Path) -> str:
    for file in (folder / "test").rglob("*.png"):
        file.unlink()
    return r"birds/test: expected images, found none"


def no_classes(folder: Path) -> str:
    for split in ("train", "val", "test"):
        shutil.rmtree(folder / split)
        (folder / split).mkdir()
    return r"birds/train: expected images, found none"


def truncated(folder: Path) -> str:
    file = folder / "train" / "sand" / "1.JPG"
    file.write_bytes(file.read_bytes()[:-300])
    return r"birds/train/sand/1.JPG: unreadable image \("


def no_image(folder: Path) -> str:
    (folder / "val" / "red" / "0.png").write_text("<html>404</html>")
    return r"birds/val/red/0.png: unreadable image \("


def bomb(folder: Path) -> str:
    file = folder / "val" / "red" / "0.bmp"
    picture((1, 2, 3)).save(file)
    content = bytearray(file.read_bytes())
    content[18:26] = (2_000_000).to_bytes(4, "little") * 2  # its header promises 4e12 pixels
    file.write_bytes(content)
    return r"birds/val/red/0.bmp: unreadable image \(Image size"


SPOILERS = [absent, without_split, with_extra_class, without_class, empty_split, no_classes]
BAD_FILES = [truncated, no_image, bomb]


@pytest.mark.parametrize("spoil", [*SPOILERS, *BAD_FILES])
def test_bad_input_is_one_line(folder: Path, store: Store, spoil: Callable[[Path], str]) -> None:
    expected = spoil(folder)
    with pytest.raises(ConfigError, match=expected) as error:
        load(folder, store)
    assert len(error.value.lines) == 1 and "\n" not in str(error.value)
    prepared = store.data / "prepared"
    assert not prepared.exists() or not any(p.name.startswith(".") for p in prepared.iterdir())
    # Launching looks at folders before anything is submitted; files are opened by the run.
    assert len(missing([config(folder)], store)) == (spoil in SPOILERS)


def test_a_full_disk_while_preparing_is_an_os_error(folder: Path, small_disk: Path) -> None:
    """And not the end of the process, which writing through a memory map would be."""
    with pytest.raises(OSError, match="No space left"):
        splits.load(config(folder, size=128), Store(small_disk))
    assert os.listdir(small_disk / "data" / "prepared") == []


def test_noise_needs_no_disk_and_repeats(store: Store) -> None:
    loaded, again = (splits.load(tiny.config(), store) for _ in range(2))
    for split in ("train", "val", "test"):
        one, two = getattr(loaded, split), getattr(again, split)
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
        assert one.images.shape[1:] == (3, 16, 16) and one.images.dtype == torch.uint8
        assert set(one.labels.tolist()) == set(range(loaded.classes))
    assert not torch.equal(loaded.val.images[:10], loaded.test.images[:10])
    assert not store.root.exists()


def test_drawn_datasets_follow_the_seed_of_the_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, int]] = []

    def draw(name: str, split: str, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((name, split, seed))
        return torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4)

    monkeypatch.setattr(splits, "draw", draw)
    loaded = splits.load(tiny.config(dataset="plane", image_size=32, seed=7), store)
    assert asked == [("plane", split, 7) for split in ("train", "val", "test")]
    assert (loaded.name, loaded.classes, len(loaded.test)) == ("plane", 32, 4)


def test_the_first_images() -> None:
    whole = tiny.dataset(30, 12)
    cut = whole.first(20)
    assert [len(s) for s in (cut.train, cut.val, cut.test)] == [20, 12, 12]
    assert torch.equal(cut.train.images, whole.train.images[:20])
    assert whole.train.first(None) is whole.train
    assert replace(cut, train=whole.train) == replace(whole, val=cut.val, test=cut.test)

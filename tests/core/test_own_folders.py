"""Own folders of images: what is a class, what is an image, what is left out, what is refused."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from core.config import ConfigError, EvalConfig
from core.data import inputs, splits
from core.datasets import miniature, own
from core.datasets.images import read_image
from core.datasets.read import read_release
from core.store.folders import Store

SIZE = 16
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of two images in every split."""
    root = tmp_path / "birds"
    for split in own.SPLITS:
        for label, name in enumerate(("blue", "red", "sand")):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                colour = miniature.colour(label, 3)
                Image.new("RGB", (24, 20), colour).save(root / split / name / f"{i}.png")
    return root


def missing(folder: Path, store: Store) -> list[str]:
    return inputs.missing([tiny.config(dataset=str(folder), image_size=SIZE)], store)


def load(folder: Path, store: Store) -> splits.Dataset:
    return splits.load(tiny.config(dataset=str(folder), image_size=SIZE), store)


# Left out, and said.


def test_margins_of_few_images_are_refused_before_a_run(folder: Path, store: Store) -> None:
    run = tiny.config(dataset=str(folder), image_size=SIZE)
    for asked, split in (
        ({"split": "val"}, "val"),
        ({"pseudo_images": 60}, "test"),
    ):
        item = EvalConfig.parse({"attack": "fmn", "margins": True, **asked})
        (line,) = inputs.missing([run], store, evals=[(run, item)])
        assert f"as asked needs at least 50 images, the {split} split has" in line
    assert item.too_few({"test": 50, "val": 49}) and not item.too_few({"test": 50, "val": 50})
    assert not EvalConfig.parse({"attack": "fmn"}).too_few({"test": 1})


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trash-1000"])
def test_hidden_folders_are_no_classes(folder: Path, store: Store, name: str) -> None:
    for split in own.SPLITS:
        shutil.copytree(folder / split / "red", folder / split / name)
        shutil.copytree(folder / split / "red", folder / split / "red" / name)
    loaded = load(folder, store)
    assert (loaded.classes, len(loaded.train)) == (3, 6) and missing(folder, store) == []
    assert own.survey(folder).remarks[0] == "train: left out 2 hidden"


def test_other_files_are_counted_and_reported(
    folder: Path, store: Store, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "README.txt").write_text("birds")
    (folder / "train" / "list.csv").write_text("1,2")
    shutil.copy(folder / "train" / "red" / "0.png", folder / "train" / "0.png")
    for name in ("a.gif", "b.GIF", "c.heic", "._0.png", "Thumbs.db", "LICENSE"):
        (folder / "train" / "red" / name).write_text("x")
    (folder / "train" / "blue" / "notes").mkdir()
    with caplog.at_level(logging.INFO, "epsweep"):
        assert len(load(folder, store).train) == 6
    (line,) = caplog.messages
    assert line.startswith(f"{folder}: train: left out 2 .gif, ") and sum(numbers(line)) == 9
    code, out, _ = call("data", "verify", str(folder))
    assert code == 0
    fine, remark = out.splitlines()
    assert fine == f"{folder}: fine: 3 classes, 6 train, 6 val, 6 test images" and remark == line
    config = tiny.config(dataset=str(folder), image_size=SIZE)
    assert inputs.left_out([config, tiny.config(), config], store) == [line], "doctor warns"


def numbers(line: str) -> list[int]:
    return [int(word) for word in line.partition("left out")[2].split() if word.isdecimal()]


@pytest.mark.parametrize("ending", [".JPG", ".jpe", ".jfif", ".Jpeg", ".TIF", ".pgm"])
def test_every_ending_of_a_known_kind_is_read(folder: Path, store: Store, ending: str) -> None:
    file = folder / "train" / "red" / "0.png"
    kind = {".tif": "TIFF", ".pgm": "PPM"}.get(ending.lower(), "JPEG")
    mode = "L" if ending == ".pgm" else "RGB"
    with Image.open(file) as image:
        image.convert(mode).save(file.with_suffix(ending), format=kind)
    file.unlink()
    assert len(load(folder, store).train) == 6 and own.survey(folder).remarks == []


def test_linked_folders_and_files_count(folder: Path, store: Store, tmp_path: Path) -> None:
    shutil.move(folder / "val" / "red", tmp_path / "elsewhere")
    (folder / "val" / "red").symlink_to(tmp_path / "elsewhere")
    file = folder / "val" / "blue" / "0.png"
    shutil.move(file, tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    assert len(load(folder, store).val) == 6


def test_a_class_without_images_in_val_is_reported(folder: Path, store: Store) -> None:
    for file in (folder / "val" / "red").iterdir():
        file.unlink()
    assert len(load(folder, store).val) == 4
    assert own.survey(folder).remarks == ["val: no image of class 'red'"]


# Refused before anything is submitted: one line with the place.


def all_gif(folder: Path) -> str:
    for file in (folder / "train" / "red").iterdir():
        file.rename(file.with_suffix(".gif"))
    return "train/red: expected images, found none but 2 .gif (images end in .jpg, .jpeg,"


def all_gif_in_val(folder: Path) -> str:
    for file in (folder / "val" / "red").iterdir():
        file.rename(file.with_suffix(".gif"))
    return "val/red: expected images, found none but 2 .gif (images end in .jpg, .jpeg,"


def empty_in_train(folder: Path) -> str:
    for file in (folder / "train" / "red").iterdir():
        file.unlink()
    return "train/red: expected images, found none"


def broken_link(folder: Path) -> str:
    (folder / "train" / "red" / "9.png").symlink_to(folder / "gone.png")
    return f"train/red/9.png: a link to {folder}/gone.png, which cannot be opened"


def broken_class_link(folder: Path) -> str:
    (folder / "train" / "teal").symlink_to(folder / "gone")
    return f"train/teal: a link to {folder}/gone, which cannot be opened"


def link_to_itself(folder: Path) -> str:
    (folder / "train" / "red" / "9.png").symlink_to("9.png")
    return "train/red/9.png: a link to 9.png, which cannot be opened"


def class_link_to_itself(folder: Path) -> str:
    (folder / "train" / "teal").symlink_to("teal")
    return "train/teal: a link to teal, which cannot be opened"


def link_to_the_folder_above(folder: Path) -> str:
    (folder / "train" / "red" / "up").symlink_to("..")
    return "train/red/up: a folder with images inside a class; images are expected directly"


def split_inside_itself(folder: Path) -> str:
    (folder / "train" / "loop").symlink_to(".")
    return "train/loop/blue: a folder with images inside a class"


def folder_inside_a_class(folder: Path) -> str:
    shutil.copytree(folder / "test" / "red", folder / "test" / "red" / "more" / "2012")
    return "test/red/more: a folder with images inside a class"


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "train" / "red" / "9.png")
    return "train/red/9.png: not a plain file"


def one_class(folder: Path) -> str:
    for split in own.SPLITS:
        for name in ("blue", "sand"):
            shutil.rmtree(folder / split / name)
    return "train: expected at least 2 classes, found one: 'red'"


def twice_by_case(folder: Path) -> str:
    for split in own.SPLITS:
        shutil.copytree(folder / split / "red", folder / split / "Red")
    return "train: the classes 'Red' and 'red' differ only by case"


def twice_by_accent(folder: Path) -> str:
    for split in own.SPLITS:
        for name in ("caf\u00e9", "cafe\u0301"):
            shutil.copytree(folder / split / "red", folder / split / name)
    return "differ only by case"


def another_case_in_test(folder: Path) -> str:
    (folder / "test" / "red").rename(folder / "test" / "Red")
    return (
        "test: expected the 3 class folders of train, 'Red' is only there, spelt like 'red' "
        "(and 1 more)"
    )


def class_in_latin1(folder: Path) -> str:
    for split in own.SPLITS:
        os.rename(os.fsencode(folder / split / "red"), os.fsencode(folder / split) + b"/caf\xe9")
    return r"train/caf\xe9: a name that is not UTF-8; rename it (convmv does whole folders)"


def file_in_latin1(folder: Path) -> str:
    place = os.fsencode(folder / "train" / "red")
    os.rename(place + b"/0.png", place + b"/\xfcber.png")
    return r"train/red/\xfcber.png: a name that is not UTF-8"


SPOILERS = [
    *(all_gif, all_gif_in_val, empty_in_train, broken_link, broken_class_link, link_to_itself),
    *(class_link_to_itself, link_to_the_folder_above, split_inside_itself, folder_inside_a_class),
    *(pipe, one_class, twice_by_case, twice_by_accent, another_case_in_test, class_in_latin1),
    file_in_latin1,
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_what_cannot_be_meant_is_refused_at_launch(
    folder: Path, store: Store, call: Call, spoil: Callable[[Path], str]
) -> None:
    expected = spoil(folder)
    (line,) = missing(folder, store)
    assert line.startswith(f"{folder}/") and expected in line
    line.encode("utf-8")
    with pytest.raises(ConfigError) as error:
        load(folder, store)
    assert len(error.value.lines) == 1 and "\n" not in str(error.value)
    code, out, _ = call("data", "verify", str(folder))
    assert code == 1 and any(expected in line for line in out.splitlines())


def test_an_unreadable_class_is_one_line(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def closed(path: Path) -> object:
        if os.fspath(path).endswith("train/red"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(own.os, "scandir", closed)
    (line,) = missing(folder, store)
    assert line.endswith("train/red: cannot be read (Permission denied)")


def test_verify_names_every_problem_at_once(folder: Path, store: Store, call: Call) -> None:
    (folder / "train" / "red" / "0.png").write_bytes(b"")
    (folder / "val" / "red" / "0.png").write_text("<html>404</html>")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    (folder / "val" / "red" / "1.png").write_text(pointer)
    whole = (folder / "test" / "sand" / "1.png").read_bytes()
    (folder / "test" / "sand" / "1.png").write_bytes(whole[: len(whole) // 2])
    assert missing(folder, store) == [], "launching opens no file"
    code, out, _ = call("data", "verify", str(folder))
    assert code == 1
    empty, page, lfs, cut = out.splitlines()
    known = "unreadable image (not an image format that Pillow knows:"
    assert empty == f"{folder}/train/red/0.png: {known} an empty file)"
    assert page == f"{folder}/val/red/0.png: {known} begins with '<html>404</html>')"
    assert lfs.startswith(f"{folder}/val/red/1.png: {known} a Git LFS pointer, not the file itself")
    assert cut.startswith(f"{folder}/test/sand/1.png: unreadable image (")
    spoilt = [broken_link(folder), all_gif_in_val(folder)]
    (line,) = missing(folder, store)
    assert spoilt[0] in line and line.endswith(f"(and 1 more, run: sweep data verify {folder})")
    code, out, _ = call("data", "verify", str(folder))
    assert all(any(text in line for line in out.splitlines()) for text in spoilt)
    assert f"{folder}/train/red/0.png: {known}" in out, "images are looked at in any case"


def test_verify_takes_a_folder_that_has_the_name_of_a_release(
    folder: Path, store: Store, call: Call
) -> None:
    store.data.mkdir(parents=True)
    shutil.move(folder, store.data / "cub")
    code, out, _ = call("data", "verify", "cub")
    assert code == 0 and out.startswith(f"{store.data}/cub: fine: 3 classes")
    code, _, err = call("data", "verify", "cup")
    assert code == 2 and err == (
        "'cup' is neither a folder here nor a known dataset, did you mean 'cub'?\n"
    )
    code, out, _ = call("data", "verify", str(folder))
    assert code == 1
    assert out == f"{folder}: no such folder (expected {folder}/{{train,val,test}}/<class>/)\n"
    code, out, _ = call("data", "verify", f"{store.data}/cub/train")
    assert code == 1 and len(out.splitlines()) == 1
    assert out.endswith(
        "cub/train: expected the folders train, val and test, found blue, red, sand\n"
    )


# The same rule for releases.


@pytest.mark.parametrize("name", ["caltech101", "ucmerced", "imagenette"])
def test_hidden_folders_in_releases_are_no_classes(name: str, tmp_path: Path) -> None:
    entry = miniature.write(name, tmp_path)
    whole = read_release(name, tmp_path, entry)
    classes = (whole.root / whole.splits["train"][0][0]).parent.parent
    for hidden in ("@eaDir", "__MACOSX", ".ipynb_checkpoints"):
        shutil.copytree(next(p for p in classes.iterdir() if p.is_dir()), classes / hidden)
    assert read_release(name, tmp_path, entry).splits == whole.splits


def test_a_listed_image_that_is_a_broken_link_is_missing(tmp_path: Path) -> None:
    entry = miniature.write("pets", tmp_path)
    contents = read_release("pets", tmp_path, entry)
    path = contents.splits["train"][0][0]
    (contents.root / path).unlink()
    (contents.root / path).symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=f"listed images are missing, the first is {path}"):
        read_release("pets", tmp_path, entry)


# Pixels.


def test_images_are_turned_as_their_tag_says(folder: Path, store: Store) -> None:
    image = Image.new("RGB", (20, 20), (250, 0, 0))
    image.paste((0, 0, 250), (0, 0, 20, 10))  # the upper half is blue
    file = folder / "train" / "red" / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: blue is right then
    image.save(file, exif=exif, quality=95)
    upright = read_image(file, SIZE, as_shown=True)
    assert upright[2, :, -2].min() > 200 and upright[0, :, 1].min() > 200
    raw = read_image(file, SIZE)
    assert raw[2, 1].min() > 200, "releases are read as the papers did"
    loaded = load(folder, store).train.images.numpy()
    assert any(np.array_equal(upright, one) for one in loaded)

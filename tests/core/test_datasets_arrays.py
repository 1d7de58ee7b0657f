"""Prepared arrays: what they hold, preparing again after a kill, and damage that is found."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from release_files import SIZE, Stopped, one_line

from core.config.datasets import Entry, entries
from core.data import splits
from core.datasets import arrays, miniature
from core.datasets.read import Contents, read_release
from core.store.claims import Claim
from core.store.folders import RunDir, Store


def contents_of(name: str, folder: Path) -> tuple[Contents, Entry]:
    known = miniature.write(name, folder)
    return read_release(name, folder, known), known


def test_files_tsv_says_what_every_image_is(tmp_path: Path, store: Store) -> None:
    contents, known = contents_of("pets", tmp_path / "pets")
    folder = arrays.prepare("pets", contents, SIZE, store)
    rows = [line.split("\t") for line in (folder / "files.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == [s for s, n in known.splits.items() for _ in range(n)]
    images = np.load(folder / "images.npy")
    for image, (_, label, path) in zip(images, rows, strict=True):
        pixels = splits.read_image(tmp_path / "pets" / path, SIZE)
        assert (image == pixels).all() and path.startswith(f"images/{'abc'[int(label)]}_")
    index = json.loads((folder / "index.json").read_text())
    assert index["splits"] == known.splits and index["size"] == SIZE


@pytest.mark.parametrize("after", [0, 1, 7, 8, 30])
def test_a_killed_preparation_goes_on(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    contents, known = contents_of("dogs", tmp_path / "dogs")
    monkeypatch.setattr(arrays, "CHUNK", 4)
    whole = arrays.prepare("dogs", contents, SIZE, Store(tmp_path / "other"))
    read_image, seen = arrays.read_image, []

    def counting(file: Path, size: int) -> Any:
        seen.append(file)
        if len(seen) == after + 1:
            raise Stopped
        return read_image(file, size)

    monkeypatch.setattr(arrays, "read_image", counting)
    monkeypatch.setattr(arrays, "workers", lambda: 1)
    with pytest.raises(Stopped):
        arrays.prepare("dogs", contents, SIZE, store)
    assert not arrays.place("dogs", SIZE, store).exists(), "half an array must not look whole"
    seen.clear()
    monkeypatch.setattr(arrays, "read_image", lambda f, s: (seen.append(f), read_image(f, s))[1])
    folder = arrays.prepare("dogs", contents, SIZE, store)
    assert len(seen) == sum(known.splits.values()) - after // 4 * 4
    for name in arrays.FILES:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in folder.iterdir()} == {*arrays.FILES, "index.json"}


def test_a_draft_with_a_torn_tail_is_written_over(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the file may be longer than what progress.json vouches for."""
    contents, _ = contents_of("dogs", tmp_path / "dogs")
    monkeypatch.setattr(arrays, "CHUNK", 4)
    whole = arrays.prepare("dogs", contents, SIZE, Store(tmp_path / "other"))

    def torn(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(arrays, "_sha256", torn)
        with pytest.raises(Stopped):
            arrays.prepare("dogs", contents, SIZE, store)
    (draft,) = (store.data / "prepared").glob(".dogs-*")
    content = bytearray((draft / "images.npy").read_bytes())
    content[-9000:] = b"\0" * 9000
    (draft / "images.npy").write_bytes(content)
    (draft / "progress.json").write_text('{"images": 8}')
    folder = arrays.prepare("dogs", contents, SIZE, store)
    assert (folder / "images.npy").read_bytes() == (whole / "images.npy").read_bytes()


def test_two_that_prepare_at_once_do_it_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, known = contents_of("dogs", tmp_path / "dogs")
    seen: list[Path] = []
    read_image = arrays.read_image
    monkeypatch.setattr(arrays, "read_image", lambda f, s: (seen.append(f), read_image(f, s))[1])
    monkeypatch.setattr(arrays.time, "sleep", lambda _: threading.Event().wait(0.02))
    folders: list[Path] = []

    def work() -> None:
        folders.append(arrays.prepare("dogs", contents, SIZE, store))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3 and len(seen) == sum(known.splits.values())


def test_arrays_that_are_there_once_it_may_begin_are_not_made_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, _ = contents_of("dogs", tmp_path / "dogs")
    acquire = arrays.Claim.acquire

    def late(working: RunDir) -> Claim | None:
        with monkeypatch.context() as alone:
            alone.setattr(arrays.Claim, "acquire", acquire)
            arrays.prepare("dogs", contents, SIZE, store)  # by another process
        monkeypatch.setattr(arrays, "_fill", None)  # cannot be called
        return acquire(working)

    monkeypatch.setattr(arrays.Claim, "acquire", late)
    assert arrays.prepare("dogs", contents, SIZE, store).is_dir()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_truncated_tiff(tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(file)
    whole = file.read_bytes()
    for length in (0, 4, 9, 200, len(whole) - 40):
        file.write_bytes(whole[:length])
        assert str(file) in one_line(lambda: splits.read_image(file, SIZE))


def test_a_full_disk_is_an_os_error_and_goes_on(tmp_path: Path, small_disk: Path) -> None:
    contents, _ = contents_of("dogs", tmp_path / "dogs")
    with pytest.raises(OSError, match="No space left"):
        arrays.prepare("dogs", contents, 128, Store(small_disk))
    assert not arrays.place("dogs", 128, Store(small_disk)).exists()


@pytest.mark.parametrize("file", arrays.FILES)
def test_damage_is_found(tmp_path: Path, store: Store, file: str) -> None:
    contents, known = contents_of("dogs", tmp_path / "dogs")
    folder = arrays.prepare("dogs", contents, SIZE, store)
    assert list(arrays.damage(folder, known)) == []
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    (line,) = arrays.damage(folder, known)
    assert line.startswith(f"{folder / file}: differs from its checksum")
    (folder / file).unlink()
    (line,) = arrays.damage(folder, known)
    assert line == f"{folder / file}: no such file"


def test_arrays_of_another_registry_are_refused(tmp_path: Path, store: Store) -> None:
    contents, known = contents_of("dogs", tmp_path / "dogs")
    folder = arrays.prepare("dogs", contents, SIZE, store)
    message = one_line(lambda: arrays.describe(folder, entries()["dogs"]))
    assert "expected {'train': 10200" in message and "prepare it again" in message
    (folder / "index.json").write_text("{")
    assert "no readable index.json" in one_line(lambda: arrays.describe(folder, known))

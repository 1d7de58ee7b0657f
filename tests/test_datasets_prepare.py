"""From an archive or folder to shared arrays: extraction, decoding, resuming, checking, loading."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from rich.console import Console

from core import data, inputs
from core.config import ConfigError
from core.datasets import archive, arrays, entry, miniature
from core.datasets.entry import Entry, entries
from core.datasets.read import Contents, read
from core.rundir import Store
from sweep import cli, datasets

SIZE = 16
NAMES = tuple(entries())
QUIET = Console(file=io.StringIO())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entry]:
    """Write a miniature release and let the registry expect exactly it."""
    known = dict(entries())
    monkeypatch.setattr(datasets, "entries", lambda: known)
    for module in (arrays, data, inputs):
        monkeypatch.setattr(module, "entries", lambda: known)

    def write(name: str, folder: Path) -> Entry:
        known[name] = miniature.write(name, folder)
        return known[name]

    return write


def prepare(name: str, source: Path | None, store: Store, size: int = SIZE) -> Path:
    return datasets.prepare(name, source, size, store, QUIET)


def one_line(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as error:
        act()
    assert len(error.value.lines) == 1 and "\n" not in str(error.value)
    return str(error.value)


# Archives, as they are downloaded: file names, compressions, what lies at the top.

PACKED = {
    "fgvc-aircraft-2013b.tar.gz": ["fgvc-aircraft-2013b"],
    "256_ObjectCategories.tar": ["256_ObjectCategories"],
    "cars_train.tgz": ["cars_train"],
    "cars_test.tgz": ["cars_test"],
    "car_devkit.tgz": ["devkit"],
    "CUB_200_2011.tgz": ["CUB_200_2011"],
    "images.tar": ["Images"],
    "lists.tar": ["train_list.mat", "test_list.mat"],
    "imagenette2.tgz": ["imagenette2"],
    "101_ObjectCategories.tar.gz": ["101_ObjectCategories"],
    "102flowers.tgz": ["jpg"],
    "images.tar.gz": ["images"],
    "annotations.tar.gz": ["annotations"],
    "UCMerced_LandUse.zip": ["UCMerced_LandUse"],
}


def pack(file: Path, folder: Path, members: list[str]) -> None:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as zipped:
            for path in sorted(p for m in members for p in (folder / m).rglob("*")):
                zipped.write(path, path.relative_to(folder))
        return
    with tarfile.open(file, "w" if file.suffix == ".tar" else "w:gz") as tar:
        for member in members:
            tar.add(folder / member, member)


def download(name: str, folder: Path, release: Path, known: Entry) -> Entry:
    """The official files of a miniature release in `folder`; the entry knows their checksums."""
    folder.mkdir()
    if name == "caltech101":  # an archive inside an archive
        inner = "101_ObjectCategories.tar.gz"
        pack(release / "caltech-101" / inner, release / "caltech-101", PACKED[inner])
        shutil.rmtree(release / "caltech-101" / "101_ObjectCategories")
        with zipfile.ZipFile(folder / "caltech-101.zip", "w") as zipped:
            zipped.write(release / "caltech-101" / inner, f"caltech-101/{inner}")
            zipped.writestr("__MACOSX/._caltech-101", "x")
    files = []
    for item in known.archives:
        file = folder / item.name
        if item.name in PACKED:
            pack(file, release, PACKED[item.name])
        elif not file.exists():
            shutil.copy(release / item.name, file)
        md5 = hashlib.md5(file.read_bytes()).hexdigest() if item.md5 else None
        files.append(item.model_copy(update={"md5": md5}))
    return known.model_copy(update={"archives": tuple(files)})


@pytest.fixture
def downloaded(
    small: Callable[..., Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """The official files of a dataset's miniature, and nothing else of it."""

    def make(name: str) -> Path:
        folder = tmp_path / "downloads"
        known = small(name, tmp_path / "release")
        datasets.entries()[name] = download(name, folder, tmp_path / "release", known)
        shutil.rmtree(tmp_path / "release")
        return folder

    return make


@pytest.mark.parametrize("name", NAMES)
def test_from_the_official_files(
    name: str, downloaded: Callable[[str], Path], store: Store, tmp_path: Path
) -> None:
    folder = prepare(name, downloaded(name), store)
    assert folder == store.data / "prepared" / f"{name}-{SIZE}"
    known = datasets.entries()[name]
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    assert images.shape == (sum(known.splits.values()), 3, SIZE, SIZE)
    for image, label in zip(images, labels, strict=True):
        colour = np.array(miniature.colour(int(label), 3)).reshape(3, 1, 1)
        assert np.abs(image.astype(int) - colour).max() < 15
    assert sorted(p.name for p in store.data.iterdir()) == sorted([name, "prepared"])
    assert not list(store.data.rglob("*.part"))
    assert list(arrays.damage(folder, known)) == []


def test_from_one_archive_of_any_name(
    downloaded: Callable[[str], Path], store: Store, tmp_path: Path
) -> None:
    folder = downloaded("cub")
    renamed = (folder / "CUB_200_2011.tgz").rename(folder / "birds.tar.gz")
    assert prepare("cub", renamed, store).is_dir()


def test_one_of_several_official_files_finds_the_others(
    downloaded: Callable[[str], Path], store: Store
) -> None:
    folder = downloaded("cars")
    assert prepare("cars", folder / "cars_test.tgz", store).is_dir()


def test_a_folder_is_read_where_it_lies(
    small: Callable[..., Entry], store: Store, tmp_path: Path
) -> None:
    small("dogs", tmp_path / "elsewhere")
    prepare("dogs", tmp_path, store)
    assert not (store.data / "dogs").exists()
    assert inputs.missing([tiny.config(dataset="dogs", image_size=SIZE)], store) == []


def test_missing_official_files_are_named(downloaded: Callable[[str], Path], store: Store) -> None:
    folder = downloaded("cars")
    (folder / "car_devkit.tgz").unlink()
    message = one_line(lambda: prepare("cars", folder, store))
    assert message.startswith(f"{folder}: ") and message.endswith("missing: car_devkit.tgz")


def test_a_wrong_checksum(downloaded: Callable[[str], Path], store: Store) -> None:
    folder = downloaded("flowers")
    labels = folder / "imagelabels.mat"
    labels.write_bytes(labels.read_bytes()[:-1])
    message = one_line(lambda: prepare("flowers", folder, store))
    assert message.startswith(f"{labels}: expected md5 ") and "partial download" in message
    assert not store.data.exists()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_a_partial_archive(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "x").mkdir()
    for i in range(20):
        (tmp_path / "x" / f"{i}.bin").write_bytes(os.urandom(5000))
    file = tmp_path / f"x{suffix}"
    pack(file, tmp_path, ["x"])
    whole = file.read_bytes()
    for part in (whole[: len(whole) // 2], b"<html>404</html>" * 40):
        file.write_bytes(part)
        message = one_line(lambda: archive.extract(file, tmp_path / "out"))
        assert message.startswith(f"{file}: a damaged or partial archive (")
    file.write_bytes(whole)
    archive.extract(file, tmp_path / "out")
    for i in range(20):
        name = f"x/{i}.bin"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize("member", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil"])
def test_no_path_escapes(tmp_path: Path, suffix: str, member: str) -> None:
    file = tmp_path / "in" / f"x{suffix}"
    file.parent.mkdir()
    if suffix == ".zip":
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr(member, "x")
    else:
        with tarfile.open(file, "w") as tar:
            tar.addfile(tarfile.TarInfo(member))
    message = one_line(lambda: archive.extract(file, tmp_path / "in" / "out"))
    assert message.startswith(f"{file}: refused") and "out of the folder" in message
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "out", file.name}


def test_links_and_devices_are_not_extracted(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"bad{kind!r}")
            member.type, member.linkname = kind, str(tmp_path / "victim")
            tar.addfile(member)
        inside = tarfile.TarInfo("escape/file.txt")
        inside.size = 1
        tar.addfile(inside, io.BytesIO(b"x"))
    archive.extract(file, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*") if not p.is_dir()] == ["file.txt"]


class Stopped(Exception):
    """Stands for a kill: nothing after it runs."""


def test_a_killed_extraction_goes_on(
    downloaded: Callable[[str], Path], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = downloaded("cub")
    written: list[str] = []
    write = archive._write

    def counting(target: Path, open_member: Callable[[], Any]) -> None:
        if len(written) == 20:
            raise Stopped
        write(target, open_member)
        written.append(target.name)

    with monkeypatch.context() as patched:
        patched.setattr(archive, "_write", counting)
        with pytest.raises(Stopped):
            prepare("cub", source, store)
        assert not (store.data / "cub").exists(), "half a release must not look whole"
        first, written = written, []
        patched.setattr(archive, "_write", lambda t, o: (write(t, o), written.append(t.name)))
        prepare("cub", source, store)
    assert len(first) == 20 and not set(first) & set(written)


def test_an_archive_of_something_else(tmp_path: Path, store: Store) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "1.jpg").write_text("x")
    pack(tmp_path / "holiday.tar.gz", tmp_path, ["holiday"])
    message = one_line(lambda: prepare("cub", tmp_path / "holiday.tar.gz", store))
    assert "no CUB-200-2011 in it: images.txt and train_test_split.txt missing" in message
    assert list(store.data.iterdir()) == []
    message = one_line(lambda: prepare("cub", tmp_path / "holiday" / "1.jpg", store))
    assert "no archive we can extract (expected CUB_200_2011.tgz)" in message
    message = one_line(lambda: prepare("cub", tmp_path / "none.tgz", store))
    assert "no such file or folder" in message
    (store.data / "cub").mkdir()
    message = one_line(lambda: prepare("cub", tmp_path / "holiday.tar.gz", store))
    assert f"{store.data}/cub is in the way" in message


# Arrays.


def contents_of(name: str, folder: Path) -> tuple[Contents, Entry]:
    known = miniature.write(name, folder)
    return read(name, folder, known), known


def test_files_tsv_says_what_every_image_is(tmp_path: Path, store: Store) -> None:
    contents, known = contents_of("pets", tmp_path / "pets")
    folder = arrays.prepare("pets", contents, SIZE, store)
    rows = [line.split("\t") for line in (folder / "files.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == [s for s, n in known.splits.items() for _ in range(n)]
    images = np.load(folder / "images.npy")
    for image, (_, label, path) in zip(images, rows, strict=True):
        pixels = data.read_image(tmp_path / "pets" / path, SIZE)
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
    monkeypatch.setattr(arrays, "_workers", lambda: 1)
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


@pytest.mark.parametrize("spoil", ["truncated", "html", "empty"])
def test_a_damaged_image_is_named_and_the_rest_is_kept(
    small: Callable[..., Entry],
    tmp_path: Path,
    store: Store,
    spoil: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrays, "CHUNK", 4)
    known = small("cub", tmp_path / "cub")
    contents = read("cub", tmp_path / "cub", known)
    file = contents.root / contents.splits["val"][0][0]
    good = file.read_bytes()
    file.write_bytes({"truncated": good[:-200], "html": b"<html>404</html>", "empty": b""}[spoil])
    message = one_line(lambda: prepare("cub", tmp_path, store))
    assert message.startswith(f"{file}: unreadable image (")
    file.write_bytes(good)
    seen: list[Path] = []
    read_image = arrays.read_image
    monkeypatch.setattr(arrays, "read_image", lambda f, s: (seen.append(f), read_image(f, s))[1])
    prepare("cub", tmp_path, store)
    assert len(seen) <= sum(known.splits.values()) - known.splits["train"] + 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_truncated_tiff(tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(file)
    whole = file.read_bytes()
    for length in (0, 4, 9, 200, len(whole) - 40):
        file.write_bytes(whole[:length])
        assert str(file) in one_line(lambda: data.read_image(file, SIZE))


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


# Runs.


def load(name: str, store: Store, **options: Any) -> data.Dataset:
    return data.load(tiny.config(dataset=name, image_size=SIZE), store, **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_loads_what_was_prepared(
    name: str, small: Callable[..., Entry], tmp_path: Path, store: Store
) -> None:
    known = small(name, tmp_path / "release")
    folder = prepare(name, tmp_path / "release", store)
    shutil.rmtree(tmp_path / "release")
    loaded = load(name, store)
    assert (loaded.name, loaded.classes) == (name, 3)
    found = {split: len(getattr(loaded, split)) for split in arrays.SPLITS}
    assert found == known.splits
    whole = torch.cat([getattr(loaded, split).labels for split in arrays.SPLITS])
    assert torch.equal(whole, torch.from_numpy(np.load(folder / "labels.npy")))
    images, labels = loaded.test.batch(torch.arange(2), tiny.CPU)
    for image, label in zip(images, labels, strict=True):
        colour = torch.tensor(miniature.colour(int(label), 3)) / 255
        assert (image.mean((1, 2)) - colour).abs().max() < 0.06
    assert f"{folder}/images.npy" in Path("/proc/self/maps").read_text(), "read, not mapped"


def test_a_release_in_the_data_folder_is_prepared_by_the_run(
    small: Callable[..., Entry], store: Store
) -> None:
    known = small("pets", store.data / "pets")
    assert len(load("pets", store).train) == known.splits["train"]
    assert arrays.place("pets", SIZE, store).is_dir()
    assert len(load("pets", store).train) == known.splits["train"]


def test_a_stage_is_a_copy(small: Callable[..., Entry], store: Store, tmp_path: Path) -> None:
    small("pets", store.data / "pets")
    stage = tmp_path / "fast"
    staged = load("pets", store, stage=stage)
    assert torch.equal(staged.val.images, load("pets", store).val.images)
    assert os.listdir(stage) == [f"pets-{SIZE}"]


def test_a_miniature_never_passes_for_the_real_thing(tmp_path: Path, store: Store) -> None:
    miniature.furnish("cub", store, SIZE, tmp_path / "small")
    config = tiny.config(dataset="cub", image_size=SIZE)
    message = one_line(lambda: load("cub", store))
    assert "a miniature for rehearsals, not CUB-200-2011" in message
    assert len(inputs.missing([config], store)) == 1
    assert load("cub", store, miniature=True).classes == 3


def test_missing_data_is_one_line_per_size(
    small: Callable[..., Entry], tmp_path: Path, store: Store
) -> None:
    configs = [
        tiny.config(dataset=name, image_size=size, seed=seed)
        for name in ("cub", "pets")
        for size in (SIZE, 32)
        for seed in (0, 1)
    ]
    assert len(inputs.missing(configs, store)) == 4
    small("cub", tmp_path / "cub")
    prepare("cub", tmp_path / "cub", store)
    small("pets", store.data / "pets")
    (line,) = inputs.missing(configs, store)
    assert line.startswith("dataset cub: ") and "sweep data prepare cub --from" in line
    shutil.rmtree(store.data / "pets" / "images")
    lines = inputs.missing(configs, store)
    assert len(lines) == 3 and "48 of 48 listed images are missing" in lines[1]


# The command line.

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Call]:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", "data", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        shown = capfd.readouterr()
        return int(left.value.code or 0), shown.out, shown.err

    yield run


def test_list_names_every_dataset(call: Call) -> None:
    code, out, _ = call("list")
    assert code == 0
    for name, known in entries().items():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert known.title in line and str(known.splits["test"]) in line
    code, out, _ = call("list", "cars", "cub")
    assert all(item.url in out for item in entries()["cars"].archives)
    assert "sweep data prepare cub --from" in out
    code, out, _ = call("list", "--json")
    assert [row["name"] for row in json.loads(out)] == list(NAMES)
    code, _, err = call("list", "cup")
    assert code == 2 and err.strip() == "unknown dataset 'cup', did you mean 'cub'?"


def test_prepare_and_verify(
    call: Call, small: Callable[..., Entry], tmp_path: Path, store: Store
) -> None:
    root = ("--root", str(store.root))
    code, out, _ = call("verify", *root)
    assert code == 3 and "nothing is prepared" in out
    code, _, err = call("verify", "cub", *root)
    assert code == 2 and err.startswith("cub: not prepared in ")
    small("cub", tmp_path / "cub")
    for _ in range(2):
        code, out, _ = call("prepare", "cub", "--from", str(tmp_path), "--size", "16", *root)
        assert code == 0 and f"cub is prepared: {store.data}/prepared/cub-16" in out
    code, out, _ = call("verify", *root)
    assert code == 0 and out.strip() == "cub-16: fine"
    code, out, _ = call("list", *root)
    assert "prepared at 16" in out
    np.save(store.data / "prepared" / "cub-16" / "labels.npy", np.zeros(3))
    code, out, _ = call("verify", "cub", *root)
    assert code == 1 and "labels.npy: differs from its checksum" in out


def test_a_real_name_with_a_miniature_folder_is_refused(call: Call, tmp_path: Path) -> None:
    miniature.write("cub", tmp_path / "cub")
    code, _, err = call("prepare", "cub", "--from", str(tmp_path / "cub"))
    assert code == 2
    assert len(err.splitlines()) == 1 and "expected 200 classes, found 3" in err


def test_the_registry_is_complete() -> None:
    for name, known in entry.entries().items():
        assert known.licence and known.page.startswith("http") and known.size.endswith(" GB"), name
        assert all(item.url.endswith(item.name) for item in known.archives)
        assert all(len(item.md5) == 32 for item in known.archives if item.md5)

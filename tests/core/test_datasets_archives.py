"""From the official files of a dataset to its folder: checksums, damage, paths, going on."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import release_files
from release_files import NAMES, SIZE, Stopped, one_line, prepare

from core.config.datasets import Entry
from core.datasets import archive, arrays, miniature
from core.store.folders import Store
from sweep.inputs import releases

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
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The official files of a dataset's miniature, and nothing else of it."""
    small = release_files.registry(monkeypatch)

    def make(name: str) -> Path:
        folder = tmp_path / "downloads"
        known = small(name, tmp_path / "release")
        releases.entries()[name] = download(name, folder, tmp_path / "release", known)
        shutil.rmtree(tmp_path / "release")
        return folder

    return make


@pytest.mark.parametrize("name", NAMES)
def test_from_the_official_files(
    name: str, downloaded: Callable[[str], Path], store: Store, tmp_path: Path
) -> None:
    folder = prepare(name, downloaded(name), store)
    assert folder == store.data / "prepared" / f"{name}-{SIZE}"
    known = releases.entries()[name]
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
    assert message.startswith(f"{labels}: expected md5 ") and "incomplete download" in message
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
        assert message.startswith(f"{file}: a damaged or incomplete archive (")
    file.write_bytes(whole)
    archive.extract(file, tmp_path / "out")
    for i in range(20):
        name = f"x/{i}.bin"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize(
    "member", ["../evil.txt", "a/../../evil.txt", "/tmp/sweep-evil.txt", "..\\evil"]
)
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
    assert not Path("/tmp/sweep-evil.txt").exists()


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


def test_links_in_zips_are_not_extracted(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as zipped:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(link, "/etc/passwd")
        zipped.writestr("link/under.txt", "x")
    archive.extract(file, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["under.txt"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar", ".zip"])
def test_members_that_clash_are_one_line(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    for names in (("a", "a/b"), ("a/b", "a"), ("x" * 300, "y")):
        write(file, dict.fromkeys(names, b"x"))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        message = one_line(lambda: archive.extract(file, tmp_path / "out"))
        assert message.startswith(f"{file}: a damaged or incomplete archive (")


def write(file: Path, members: dict[str, bytes]) -> None:
    """An archive of these members, in this order."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
        return
    with tarfile.open(file, "w" if file.suffix == ".tar" else "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_an_encrypted_zip_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    write(file, {"a.txt": b"x"})
    content = bytearray(file.read_bytes())
    content[6] |= 1  # the flag in the local header, and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)
    message = one_line(lambda: archive.extract(file, tmp_path / "out"))
    assert message == f"{file}: encrypted; extract it and give the folder"


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_that_grows_without_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 100_000)
    file, out = tmp_path / f"x{suffix}", tmp_path / "out"
    zeros = bytes(50_000)
    write(file, {f"{i}.bin": zeros for i in range(50)})
    message = one_line(lambda: archive.extract(file, out))
    assert message.startswith(f"{file}: refused, it holds far more bytes than an archive")
    assert sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) <= max(
        100_000, archive.RATIO * file.stat().st_size
    )
    write(file, {f"{i}.bin": os.urandom(50_000) for i in range(10)})
    archive.extract(file, tmp_path / "fine")


def test_a_sparse_file_counts_with_what_it_becomes(tmp_path: Path) -> None:
    """One block of headers promises 8 GB; none of it is written."""
    file = tmp_path / "x.tar"
    member = tarfile.TarInfo("huge.bin")
    member.size = 8 * 10**9
    file.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    message = one_line(lambda: archive.extract(file, tmp_path / "out"))
    assert "far more bytes" in message and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("what", ["bytes", "files", "links"])
def test_what_the_registry_expects_bounds_a_release(
    downloaded: Callable[[str], Path],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    folder = downloaded("cub")
    (folder / "CUB_200_2011.tgz").unlink()
    known = releases.entries()["cub"]
    file = folder / "birds.tar.gz"
    if what == "bytes":
        monkeypatch.setattr(archive, "FREE_BYTES", 1000)
        releases.entries()["cub"] = known.model_copy(update={"size": "0.0001 GB"})
        write(file, {f"{i}.bin": os.urandom(50_000) for i in range(10)})  # 0.5 MB for 0.1
    elif what == "files":
        write(file, {f"{i}.txt": b"" for i in range(11_000)})
    else:
        with tarfile.open(file, "w:gz") as tar:
            for i in range(11_000):
                member = tarfile.TarInfo(f"{i}")
                member.type, member.linkname = tarfile.SYMTYPE, "x"
                tar.addfile(member)
    message = one_line(lambda: prepare("cub", file, store))
    kind = "files" if what == "links" else what
    assert message == f"{file}: refused, it holds far more {kind} than CUB-200-2011"
    assert list(store.data.iterdir()) == [], "nothing of it stays"


def test_a_bomb_inside_an_archive_counts_too(
    downloaded: Callable[[str], Path],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = downloaded("caltech101")
    inner = tmp_path / "101_ObjectCategories.tar.gz"
    write(inner, {f"{i}.bin": bytes(50_000) for i in range(50)})
    monkeypatch.setattr(archive, "FREE_BYTES", 100_000)
    other = folder / "other.zip"
    write(other, {f"caltech-101/{inner.name}": inner.read_bytes()})
    message = one_line(lambda: prepare("caltech101", other, store))
    assert "far more bytes" in message and list(store.data.iterdir()) == []


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
    assert "not an archive (expected CUB_200_2011.tgz)" in message
    message = one_line(lambda: prepare("cub", tmp_path / "none.tgz", store))
    assert "no such file or folder" in message
    (store.data / "cub").mkdir()
    message = one_line(lambda: prepare("cub", tmp_path / "holiday.tar.gz", store))
    assert f"{store.data}/cub: exists, but holds no CUB" in message

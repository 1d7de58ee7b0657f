"""Archives to folders, safely: plain files only, and none outside the folder.

A file is written beside its place and renamed, so what is there with the right size is complete:
extracting again after a kill goes on where it stopped.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from core.config import ConfigError
from core.datasets.entry import Archive, Entry
from core.datasets.read import find_root

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
Progress = Callable[[int, int], object]
"""Called with the bytes of an archive that are read, and its size."""
Member = tuple[str, int, Callable[[], IO[bytes]]]
"""A file of an archive: name, size, and how to open it."""


def is_archive(path: Path) -> bool:
    """Whether the name of a file says that it is an archive we can extract."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def unpack(
    source: Path, folder: Path, entry: Entry, *, progress: Progress = lambda a, b: None
) -> None:
    """Put a release into `folder`: from one archive, or from a folder that holds the official ones.

    Official files are checked against their checksums first. Raises ConfigError, one line.
    """
    if folder.exists():
        raise ConfigError(f"{folder} is in the way and holds no {entry.title}")
    files = _sources(source, entry)
    for file in files:
        _check_sum(file, entry.archives)
    draft = folder.with_name(f".{folder.name}-extracting")
    for file in files:
        if is_archive(file):
            extract(file, draft, progress)
        else:
            shutil.copyfile(file, draft / file.name)
    for path in sorted(draft.rglob("*")) if find_root(draft, entry) is None else ():
        if path.name in entry.inner:
            extract(path, path.parent, progress)
    if find_root(draft, entry) is None:
        shutil.rmtree(draft)
        raise ConfigError(f"{source}: no {entry.title} in it: {' and '.join(entry.marks)} missing")
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.rename(draft, folder)


def _sources(source: Path, entry: Entry) -> list[Path]:
    """The files to unpack, archives first. Raises ConfigError where one is missing."""
    official = [archive.name for archive in entry.archives]
    folder = source if source.is_dir() else source.parent
    if not source.is_dir() and (len(official) == 1 or source.name not in official):
        if not is_archive(source):
            what = "no archive we can extract" if source.exists() else "no such file or folder"
            raise ConfigError(f"{source}: {what} (expected {' and '.join(official)})")
        return [source]
    missing = [file for file in official if not (folder / file).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: expected an extracted release or {', '.join(official)}; "
            f"missing: {', '.join(missing)}"
        )
    return sorted((folder / file for file in official), key=lambda file: not is_archive(file))


def _check_sum(file: Path, archives: tuple[Archive, ...]) -> None:
    expected = {archive.name: archive.md5 for archive in archives}.get(file.name)
    if expected is None:
        return
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "md5").hexdigest()
    if found != expected:
        raise ConfigError(
            f"{file}: expected md5 {expected}, got {found}: a partial download, or another "
            "packaging (then extract it and give the folder)"
        )


def extract(archive: Path, folder: Path, progress: Progress = lambda a, b: None) -> None:
    """Extract the plain files of a tar or zip archive.

    Links and devices are left out. Raises ConfigError where a name leads out of `folder` or the
    archive is damaged, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = archive.stat().st_size
    members = _zip(archive) if archive.suffix.lower() == ".zip" else _tar(archive)
    try:
        for (member, size, open_member), position in members:
            target = folder / _safe(member, archive)
            if not target.is_file() or target.stat().st_size != size:
                _write(target, open_member)
            progress(position, total)
    except DAMAGE as error:
        raise ConfigError(f"{archive}: a damaged or partial archive ({error})") from None
    progress(total, total)


DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError),
)


def _tar(archive: Path) -> Iterator[tuple[Member, int]]:
    """The plain files of a tar archive of any compression, read once from front to back."""
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
        for member in tar:
            if member.isreg():
                yield (member.name, member.size, partial(_opened, tar, member)), raw.tell()


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None, "only plain files are asked for"
    return content


def _zip(archive: Path) -> Iterator[tuple[Member, int]]:
    with zipfile.ZipFile(archive) as content:
        position = 0
        for member in content.infolist():
            position += member.compress_size
            if not member.is_dir():
                yield (member.filename, member.file_size, partial(content.open, member)), position


def _safe(member: str, archive: Path) -> str:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigError(f"{archive}: refused, its member '{member}' leads out of the folder")
    return str(path)


def _write(target: Path, open_member: Callable[[], IO[bytes]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    with open_member() as content, open(draft, "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    os.replace(draft, target)

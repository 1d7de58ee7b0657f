"""Extracts archives safely: plain files only, none outside the folder, and not much more than the
release is known to hold.

Each file is written under a temporary name and renamed, so a file of the right size is complete,
and extracting again after a kill continues where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from core.config import ConfigError
from core.config.datasets import Archive, Entry
from core.datasets.read import find_root
from core.errors import RefusedError, beginning, first_line

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
Progress = Callable[[int, int], object]
"""Called with the number of bytes read from an archive, and its size."""
Member = tuple[str, int, Callable[[], IO[bytes]] | None]
"""An entry of an archive: name, size, and a function that opens it (None if not a plain file)."""
RATIO = 20
"""Maximum number of bytes unpacked per byte of archive: images hardly compress."""
FREE_BYTES = 100_000_000
"""Bytes allowed regardless of RATIO, since lists of names compress better."""
MARGIN = 4
"""A release may unpack to this multiple of the registry's size, and to twice this multiple of its
number of images: there are annotations, too, and macOS adds one hidden file to each."""


@dataclass
class Budget:
    """What may still be unpacked from all archives of a release, nested ones included."""

    bytes: int
    files: int
    about: str = "an archive of its size"

    @classmethod
    def of(cls, entry: Entry) -> Budget:
        size = int(float(entry.size.removesuffix(" GB")) * 1e9)
        files = 2 * MARGIN * sum(entry.parts.values()) + 10_000
        return cls(MARGIN * max(FREE_BYTES, size), files, entry.title)

    def spend(self, size: int, archive: Path) -> None:
        """Account for one entry of `size` bytes. Raises RefusedError if the budget is used up."""
        self.bytes -= size
        self.files -= 1
        if self.bytes < 0 or self.files < 0:
            what = "bytes" if self.bytes < 0 else "files"
            raise RefusedError(f"{archive}: refused, it holds far more {what} than {self.about}")


def is_archive(path: Path) -> bool:
    """Whether this is a file whose name ends like an archive that `extract` can read."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def unpack(
    source: Path, folder: Path, entry: Entry, *, progress: Progress = lambda a, b: None
) -> None:
    """Put a release into `folder`, from one archive or from a folder that holds the official ones.

    Official files are compared with their checksums first. Raises ConfigError, one line. Files from
    a damaged archive are kept for the next attempt; those from a refused one are deleted.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: exists, but holds no {entry.title}; move it away")
    files = _sources(source, entry)
    for file in files:
        _check_sum(file, entry.archives)
    draft = folder.with_name(f".{folder.name}-extracting")
    try:
        _extract_all(files, draft, entry, progress)
    except RefusedError:
        shutil.rmtree(draft)
        raise
    if find_root(draft, entry) is None:
        shutil.rmtree(draft)
        raise ConfigError(f"{source}: no {entry.title} in it: {' and '.join(entry.marks)} missing")
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.rename(draft, folder)


def _extract_all(files: list[Path], draft: Path, entry: Entry, progress: Progress) -> None:
    budget = Budget.of(entry)
    for file in files:
        if is_archive(file):
            extract(file, draft, progress, budget)
        else:
            shutil.copyfile(file, draft / file.name)
    for path in sorted(draft.rglob("*")) if find_root(draft, entry) is None else ():
        if path.name in entry.inner:
            extract(path, path.parent, progress, budget)


def _sources(source: Path, entry: Entry) -> list[Path]:
    """The files to unpack, archives first. Raises ConfigError if one is missing."""
    official = [archive.name for archive in entry.archives]
    folder = source if source.is_dir() else source.parent
    if not source.is_dir() and (len(official) == 1 or source.name not in official):
        if not is_archive(source):
            what = "not an archive" if source.exists() else "no such file or folder"
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
            f"{file}: expected md5 {expected}, got {found}: an incomplete download, or packed "
            "differently (then extract it and give the folder)"
        )


def extract(
    archive: Path,
    folder: Path,
    progress: Progress = lambda a, b: None,
    budget: Budget | None = None,
) -> None:
    """Extract the plain files of a tar or zip archive; links and devices are skipped.

    Raises RefusedError if a name leads out of `folder` or the content exceeds budget or RATIO,
    ConfigError if the archive is damaged or encrypted, OSError if the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = archive.stat().st_size
    limits = [Budget(max(FREE_BYTES, RATIO * total), 10**7), *([budget] if budget else [])]
    members = _zip(archive) if archive.suffix.lower() == ".zip" else _tar(archive)
    try:
        for (member, size, open_member), position in members:
            for limit in limits:
                limit.spend(size, archive)
            if open_member:
                target = folder / _safe(member, archive)
                if not target.is_file() or target.stat().st_size != size:
                    _write(target, open_member)
            progress(position, total)
    except ConfigError:
        raise
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, *CLASHES):
            raise  # a fault of the disk, not of the archive
        reason = f"{beginning(archive)}; {first_line(error)}"
        raise ConfigError(f"{archive}: a damaged or incomplete archive ({reason})") from None
    progress(total, total)


DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, ValueError, RuntimeError, IndexError),
)
"""What tarfile and zipfile raise for damaged files; also OSError without errno."""
CLASHES = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""Errors caused by names in the archive: too long, or a file where another member needs a
folder."""


def _tar(archive: Path) -> Iterator[tuple[Member, int]]:
    """The entries of a tar archive of any compression, and the bytes read so far; one pass."""
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
        for member in tar:
            content = partial(_opened, tar, member) if member.isreg() else None
            yield (member.name, member.size if content else 0, content), raw.tell()


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None, "only plain files are asked for"
    return content


def _zip(archive: Path) -> Iterator[tuple[Member, int]]:
    with zipfile.ZipFile(archive) as content:
        position = 0
        for member in content.infolist():
            if member.flag_bits & 1:
                raise ConfigError(f"{archive}: encrypted; extract it and give the folder")
            position += member.compress_size
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if written on Windows
            plain = not member.is_dir() and kind in (0, stat.S_IFREG)
            opened = partial(content.open, member) if plain else None
            yield (member.filename, member.file_size if plain else 0, opened), position


def _safe(member: str, archive: Path) -> str:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise RefusedError(f"{archive}: refused, its member {member!r} leads out of the folder")
    return str(path)


def _write(target: Path, open_member: Callable[[], IO[bytes]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    with open_member() as content, open(draft, "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    os.replace(draft, target)

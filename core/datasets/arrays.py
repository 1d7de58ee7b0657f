"""Prepared datasets: every image decoded once into one uint8 array that all runs memory-map.

    <data>/prepared/<name>-<size>/images.npy   uint8 [N, 3, size, size], train then val then test
                                  labels.npy   int64 [N]
                                  files.tsv    split, label and path of every image, in that order
                                  index.json   classes, counts, checksums

Preparing after a kill continues where it stopped: images are written in order at fixed offsets, and
progress.json counts those that are flushed to disk. Two processes that prepare at once write the
same bytes to the same offsets, so a process that has lost its claim does no harm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import PIL

from core.config import ConfigError
from core.config.datasets import Entry, entries
from core.datasets.images import read_image
from core.datasets.own import SPLITS
from core.datasets.prepared import INDEX, Prepared, describe, place
from core.datasets.read import Contents, read_release
from core.errors import DamagedError
from core.store.claims import Claim, now
from core.store.files import remove, write_text
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, write_json

CHUNK = 512
"""Images between two flushes to disk (77 MB at 224 pixels)."""

Progress = Callable[[int, int], object]
"""Called with the images done and their total."""


def obtain(name: str, size: int, store: Store) -> Path:
    """The folder of a dataset's arrays, which are first prepared from <data>/<name> if missing.

    If several processes call this, one prepares and the others wait. Raises ConfigError.
    """
    folder = place(name, size, store)
    if not folder.is_dir():
        entry = entries()[name]
        prepare(name, read_release(name, store.data / name, entry), size, store)
    return folder


def prepare(
    name: str,
    contents: Contents,
    size: int,
    store: Store,
    *,
    miniature: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Decode a verified release; returns the folder of its arrays.

    miniature: mark the arrays as stand-ins, which runs refuse to use. Raises ConfigError naming an
    image that cannot be read, OSError.
    """
    folder = place(name, size, store)
    working = RunDir(folder.parent / ".preparing" / folder.name)
    while not folder.is_dir():
        claim = Claim.acquire(working)
        if claim is None:
            time.sleep(1)
            continue
        try:
            if not folder.is_dir():  # another process may have ended since the last look
                _fill(folder, name, contents, size, miniature, progress)
        finally:
            claim.release("done")
    return folder


def _fill(
    folder: Path, name: str, contents: Contents, size: int, miniature: bool, progress: Progress
) -> None:
    rows = [(split, label, path) for split in SPLITS for path, label in contents.splits[split]]
    listing = "".join(f"{split}\t{label}\t{path}\n" for split, label, path in rows)
    digest = hashlib.sha256(f"{size}\n{listing}".encode()).hexdigest()
    draft = folder.with_name(f".{folder.name}-{digest[:8]}")
    draft.mkdir(parents=True, exist_ok=True)
    _decode([contents.root / path for _, _, path in rows], size, draft, progress)
    np.save(draft / "labels.npy", np.array([label for _, label, _ in rows], dtype=np.int64))
    write_text(draft / "files.tsv", listing)
    index = {
        "name": name,
        "size": size,
        "classes": list(contents.classes),
        "splits": {split: len(contents.splits[split]) for split in SPLITS},
        "miniature": miniature,
        "checksums": {file: _sha256(draft / file) for file in FILES},
        "decoder": f"Pillow {PIL.__version__}",
        "made": now(),
    }
    write_json(draft / INDEX, index)
    remove(draft / "progress.json")
    try:
        os.rename(draft, folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(draft, ignore_errors=True)  # another process was faster


FILES = ("images.npy", "labels.npy", "files.tsv")


def _decode(files: list[Path], size: int, draft: Path, progress: Progress) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), 3, size, size)}
    done = _already(draft)
    path = draft / "images.npy"
    path.touch()
    # Written as a stream: on a full disk, writing through a memory map would kill the process
    # (SIGBUS) instead of raising OSError.
    with open(path, "r+b") as file, ThreadPoolExecutor(workers()) as pool:
        np.lib.format.write_array_header_1_0(file, header)
        file.seek(done * 3 * size * size, os.SEEK_CUR)
        progress(done, len(files))
        for start in range(done, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            # PIL releases the GIL while it decodes; chunks bound the images waiting in memory.
            for image in pool.map(lambda item: read_image(item, size), chunk):
                file.write(image.tobytes())
                done += 1
                progress(done, len(files))
            _flush(file)
            write_json(draft / "progress.json", {"images": done})


def _already(draft: Path) -> int:
    """Number of images that an earlier process has flushed to disk."""
    with suppress(DamagedError):
        return int((read_json(draft / "progress.json", Prepared) or {}).get("images", 0))
    return 0


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def workers() -> int:
    """Number of cores that this process may use: a job's share of its node, not the whole node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def damage(folder: Path, entry: Entry) -> Iterator[str]:
    """Problems of prepared arrays, one line each; reads every byte."""
    try:
        index = describe(folder, entry)
    except ConfigError as error:
        yield str(error)
        return
    for name in FILES:
        if not (folder / name).is_file():
            yield f"{folder / name}: no such file"
        elif _sha256(folder / name) != index["checksums"][name]:
            yield f"{folder / name}: differs from its checksum; delete {folder}, prepare it again"

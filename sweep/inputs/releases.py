"""`sweep data`: list datasets, prepare them once, and verify what was prepared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from core.config import ConfigError, nearest
from core.config.datasets import Entry, entries
from core.config.values import at_home
from core.datasets import archive, arrays, prepared
from core.datasets.images import read_image
from core.datasets.own import SPLITS, survey
from core.datasets.read import find_root, read_release
from core.sheet import Sheet
from core.store.folders import Store


def entry_of(name: str) -> Entry:
    """The entry of a dataset. Raises ConfigError with the nearest name if it is unknown."""
    if name not in entries():
        raise ConfigError(f"unknown dataset '{name}'{nearest(name, entries(), shown=20)}")
    return entries()[name]


def sizes(name: str, store: Store) -> list[int]:
    """The image sizes (side in pixels) at which a dataset is prepared."""
    folders = (store.data / "prepared").glob(f"{name}-*")
    found = (folder.name.removeprefix(f"{name}-") for folder in folders)
    return sorted(int(size) for size in found if size.isdecimal())


def rows(names: Sequence[str], store: Store) -> list[dict[str, Any]]:
    """The shape of `sweep data list --json`."""
    chosen = {name: entry_of(name) for name in names or entries()}
    return [
        {
            "name": name,
            **entry.model_dump(),
            "folder": (store.data / name).is_dir(),
            "prepared": sizes(name, store),
        }
        for name, entry in chosen.items()
    ]


def table(store: Store) -> Sheet:
    """All datasets, one row each, for a terminal."""
    numbers = (">classes", *(f">{split}" for split in SPLITS), ">size")
    shown = Sheet("name", "dataset", *numbers, "here", "licence")
    for name, entry in entries().items():
        counts = [str(entry.splits[split]) for split in SPLITS]
        here = _here(name, store)
        style = "green" if here.startswith("prepared") else ""
        row = (name, entry.title, str(entry.classes), *counts, entry.size)
        shown.add_row(*row, Text(here, style=style), entry.licence)
    return shown


def _here(name: str, store: Store) -> str:
    prepared = sizes(name, store)
    if prepared:
        return f"prepared at {', '.join(map(str, prepared))}"
    return "folder" if (store.data / name).is_dir() else "no"


def details(name: str, store: Store) -> Group:
    """One dataset: what it is, where to get it, what to run."""
    entry = entry_of(name)
    lines = [
        f"{entry.title}: {entry.classes} classes, "
        + ", ".join(f"{entry.splits[split]} {split}" for split in SPLITS),
        f"licence: {entry.licence}",
        f"page: {entry.page}",
        *(f"file: {item.url} (md5 {item.md5 or 'not published'})" for item in entry.archives),
        f"here: {_here(name, store)} ({store.data})",
        *([f"note: {entry.note}"] if entry.note else []),
        f"prepare: sweep data prepare {name} --from FOLDER-WITH-THE-FILES",
    ]
    return Group(*(Text(line) for line in lines))


def prepare(name: str, source: Path | None, size: int, store: Store, console: Console) -> Path:
    """Turn an archive or a folder into arrays, unless they exist; returns their folder. Raises
    ConfigError, OSError.

    source: an extracted release, one archive, or a folder with the official files; by default
    <data>/<name>. A release is read in place; archives are extracted to <data>/<name>. size: image
    side in pixels.
    """
    entry, folder = entry_of(name), store.data / name
    if prepared.place(name, size, store).is_dir():
        return prepared.place(name, size, store)
    if source and source.is_dir() and find_root(source, entry):
        folder = source
    elif source and not (folder.is_dir() and find_root(folder, entry)):
        with _bar(console, "extract") as progress:
            archive.unpack(source, folder, entry, progress=progress)
    contents = read_release(name, folder, entry)
    with _bar(console, "decode") as progress:
        return arrays.prepare(name, contents, size, store, progress=progress)


@contextmanager
def _bar(console: Console, verb: str) -> Iterator[arrays.Progress]:
    """Context manager: show a progress bar on a terminal; yields the function that updates it."""
    if not console.is_terminal:  # before Rich 15, a disabled bar prints an empty line
        yield lambda done, total: None
        return
    columns = (TextColumn(verb), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataclass(frozen=True)
class Finding:
    """The result of verifying one dataset. name: 'cub-224' or the user's folder. summary: what it
    holds. problems, remarks: what is wrong, and what was left out, one line each."""

    name: str
    summary: str
    problems: Sequence[str]
    remarks: Sequence[str] = ()


def verify(names: Iterable[str], store: Store, console: Console) -> Iterator[Finding]:
    """Compare prepared arrays with their checksums, and decode every image of the user's folders.

    names: datasets, or folders (any name with a '/'); without names, all prepared datasets. Raises
    ConfigError for a name that is unknown or not prepared.
    """
    names = list(names)
    for name in names:
        if not _own(name, store):
            if name not in entries():
                what = "neither a folder here nor a known dataset"
                raise ConfigError(f"'{name}' is {what}{nearest(name, entries(), shown=20)}")
            if not sizes(name, store):
                raise ConfigError(f"{name}: not prepared in {store.data}")
    for name in names or entries():
        if name in names and (folder := _own(name, store)):
            yield _verify_own(folder, console)
            continue
        for size in sizes(name, store):
            place = prepared.place(name, size, store)
            yield Finding(place.name, "fine", list(arrays.damage(place, entries()[name])))


def _own(name: str, store: Store) -> Path | None:
    """The user's folder that a name stands for, as in a grid; None if it is a release."""
    if "/" in name or (name not in entries() and Path(name).is_dir()):
        return at_home(name).absolute()
    folder = store.data / name
    own = not sizes(name, store) and all((folder / split).is_dir() for split in SPLITS)
    return folder if own else None


def _verify_own(folder: Path, console: Console) -> Finding:
    """Decode every image of a user's folder, as a run would."""
    found = survey(folder)
    files = [f for split in found.files.values() for images in split.values() for f in images]
    with _bar(console, "decode") as progress, ThreadPoolExecutor(arrays.workers()) as pool:
        damaged = []
        for done, problem in enumerate(pool.map(_unreadable, files), start=1):
            damaged += [problem] if problem else []
            progress(done, len(files))
    counts = [f"{sum(map(len, c.values()))} {split}" for split, c in found.files.items()]
    summary = f"fine: {len(found.files['train'])} classes, {', '.join(counts)} images"
    return Finding(str(folder), summary, [*found.problems, *damaged], found.remarks)


def _unreadable(file: Path) -> str | None:
    try:
        read_image(file, 8, as_shown=True)
    except ConfigError as error:
        return str(error)
    return None

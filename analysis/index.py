"""A cache of what run folders hold: frames kept as Parquet, refreshed run by run.

A run's rows are taken from the index only if its files are unchanged since they were read (name,
size, inode, times) and the rows depend on the same inputs. Safe to delete at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from analysis.frames import Frame
from analysis.runs import Row, Run
from core.store.files import present, write_atomic
from core.store.folders import Store

Rows = Callable[[Run], Iterable[Row]]
"""Run -> its rows in a frame."""
SCHEMA = 11
"""Version of the rows. Increase it when the same files give other rows."""
SETTLED = 2_000_000_000
"""A file's rows are kept only if it last changed at least this many nanoseconds ago: a second
change within one tick of the file system's clock would not show."""
CHUNK = 2000
MARKS = b"epsweep.marks"
"""Key of the Parquet metadata that holds {run id: mark}."""


class Index:
    """The rows of `runs`, kept in <root>/index. enabled: if False, neither reads nor writes it."""

    def __init__(
        self, store: Store, runs: Sequence[Run], asked: Mapping[str, Any], *, enabled: bool = True
    ) -> None:
        """runs: none of their files may have been read yet. asked: run id -> what its rows depend
        on besides its folder and config."""
        self._folder = store.root / "index"
        self._runs = runs
        self._enabled = enabled
        # Before any file is read, so that a change in between is noticed next time.
        self._marks = {run.dir.id: _mark(run, asked[run.dir.id]) for run in runs if enabled}

    def read(self, frame: Frame, rows: Rows) -> pd.DataFrame:
        """The rows of all runs, in their order: from the index if it is current, else by `rows`."""
        return self._read([(frame, rows)], lambda run: None)[0]

    def read_once(
        self, parts: Sequence[tuple[Frame, Rows]], advance: Callable[[], object]
    ) -> list[pd.DataFrame]:
        """Several frames in one pass over the runs, keeping nothing but their rows in memory.
        advance: called after each run."""

        def leave(run: Run) -> None:
            run.forget()
            advance()

        return self._read(parts, leave)

    def _read(
        self, parts: Sequence[tuple[Frame, Rows]], leave: Callable[[Run], object]
    ) -> list[pd.DataFrame]:
        kept = [self._load(frame) for frame, _ in parts]
        known = [self._unchanged(stored) for stored, _ in kept]
        fresh = [_Fresh(frame) for frame, _ in parts]
        for run in self._runs:
            for (_, rows), ids, into in zip(parts, known, fresh, strict=True):
                if run.dir.id not in ids:
                    into.add(rows(run))
            leave(run)
        place = {run.dir.id: i for i, run in enumerate(self._runs)}
        found = []
        for (frame, _), (stored, table), ids, read in zip(parts, kept, known, fresh, strict=True):
            mine = _of(table, ids)
            if len(ids) < len(self._runs):
                mine = _joined(mine, read.whole())
                self._save(frame, mine, stored, table)
            order = mine["run_id"].map(place).argsort(kind="stable")
            found.append(mine.iloc[order].reset_index(drop=True))
        return found

    def _unchanged(self, stored: Mapping[str, str]) -> set[str]:
        """The runs whose stored rows are current."""
        return {name for name, mark in self._marks.items() if mark and stored.get(name) == mark}

    def _path(self, frame: Frame) -> Path:
        return self._folder / f"{frame.name}.parquet"

    def _load(self, frame: Frame) -> tuple[dict[str, str], pd.DataFrame]:
        """The stored (marks, rows); empty if there is no index or it cannot be read."""
        if not self._enabled:
            return {}, frame.build(())
        with suppress(OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            table = pq.read_table(self._path(frame))
            return json.loads(table.schema.metadata[MARKS]), frame.typed(table.to_pandas())
        return {}, frame.build(())

    def _save(
        self,
        frame: Frame,
        mine: pd.DataFrame,
        stored: Mapping[str, str],
        table: pd.DataFrame,
    ) -> None:
        """Store the rows of settled runs, and keep those of runs that are only in other sweeps.
        Does nothing if the store cannot be written to.
        """
        if not self._enabled:
            return
        others = {run_id: mark for run_id, mark in stored.items() if run_id not in self._marks}
        keep = others | {run_id: mark for run_id, mark in self._marks.items() if mark}
        rows = _joined(_of(table, others), _of(mine, keep))
        arrow = pa.Table.from_pandas(rows, preserve_index=False)
        metadata = {**(arrow.schema.metadata or {}), MARKS: json.dumps(keep).encode()}
        arrow = arrow.replace_schema_metadata(metadata)
        with suppress(OSError):
            write_atomic(self._path(frame), lambda file: pq.write_table(arrow, file))


class _Fresh:
    """Rows read from folders, a frame for every CHUNK of them: as dicts they take ten times as
    much memory."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._rows, self._built = frame, list[Row](), list[pd.DataFrame]()

    def add(self, rows: Iterable[Row]) -> None:
        self._rows.extend(rows)
        if len(self._rows) >= CHUNK:
            self._build()

    def whole(self) -> pd.DataFrame:
        if self._rows or not self._built:
            self._build()
        return pd.concat(self._built, ignore_index=True) if self._built[1:] else self._built[0]

    def _build(self) -> None:
        self._built.append(self._frame.build(self._rows))
        self._rows.clear()


def _of(table: pd.DataFrame, runs: Container[str]) -> pd.DataFrame:
    """The rows of these runs; `isin` takes ten times as long for 10,000 of them."""
    return table[np.array([name in runs for name in table["run_id"].tolist()], bool)]


def _joined(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([first, second], ignore_index=True) if len(first) else second


def _mark(run: Run, asked: Any) -> str | None:
    """A digest of everything a run's rows depend on; None if a file changed too recently, see
    SETTLED."""
    files = list(_files(run.dir.path))
    if any(changed > time.time_ns() - SETTLED for *_, changed in files):
        return None
    known = [SCHEMA, dict(run.config), run.setting, run.variant, dict(run.asked), str(asked), files]
    if run.known:
        known.append(run.known.signature(run.sources))
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


READ = (".json", ".jsonl", ".npz")
"""Suffixes of files that rows are read from, or whose damage changes a run's state."""


def _files(folder: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """(name, size, inode, mtime in ns, ctime in ns) of the files that rows depend on."""
    for place in (folder, folder / "evals"):
        entries = present(partial(_entries, place)) or {}
        for name in sorted(entries):
            if stat := present(entries[name].stat):  # None if it was replaced meanwhile
                times = stat.st_mtime_ns, stat.st_ctime_ns
                yield f"{place.name}/{name}", stat.st_size, stat.st_ino, *times


def _entries(place: Path) -> dict[str, os.DirEntry[str]]:
    with os.scandir(place) as entries:
        return {entry.name: entry for entry in entries if entry.name.endswith(READ)}

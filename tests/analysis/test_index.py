"""The Parquet index: the same rows as without it, whatever happens to the files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import analysis_store as made
import numpy as np
import pandas as pd
import pytest

from analysis import Results
from analysis.index import SETTLED

FRAMES = ("values", "curves", "epochs", "table")


@pytest.fixture(autouse=True)
def files_settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.index.SETTLED", 0)


def same(root: Path, rows: list) -> None:
    """What the index gives is what the files hold."""
    time.sleep(0.01)
    plain, indexed = Results(root, rows, index=False), Results(root, rows)
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(indexed, name))


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list]:
    runs = made.grid(("vit", "swin"), ("cars",), seeds=(0, 1))
    return tmp_path, made.fill(tmp_path, runs)


def test_first_and_later_readings_are_equal(store: tuple[Path, list]) -> None:
    for _ in range(3):
        same(*store)
    assert len(list((store[0] / "index").glob("*.parquet"))) == len(FRAMES)


def test_unchanged_runs_are_not_read_again(
    store: tuple[Path, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    same(*store)
    read: list[object] = []
    monkeypatch.setattr("core.store.damage.find", lambda run, *_: read.append(run) or [])
    results = Results(*store)
    assert all(len(getattr(results, name)) for name in FRAMES) and read == []


def delete_result(root: Path, rows: list) -> None:
    (root / "runs" / rows[1]["id"] / "result.json").unlink()


def delete_folder(root: Path, rows: list) -> None:
    shutil.rmtree(root / "runs" / rows[2]["id"])


def other_flags(root: Path, rows: list) -> None:
    run = made.config(**rows[3]["config"])
    made.finish(root, run, critical=np.zeros(made.N, np.int16))


def same_size_same_time(root: Path, rows: list) -> None:
    """The hardest change to see: as many bytes, the old time put back."""
    path = root / "runs" / rows[0]["id"] / "evals" / f"{made.EVALUATION.id}.json"
    before = path.stat()
    text = path.read_text()
    path.write_text(text.replace('"correct": 4', '"correct": 3', 1))
    assert path.stat().st_size == before.st_size and path.read_text() != text
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def fail(root: Path, rows: list) -> None:
    delete_result(root, rows)
    run = made.config(**rows[1]["config"])
    made.attempt(made.start(root, run, 3), outcome="failed", reason="out of memory")


def break_evaluation(root: Path, rows: list) -> None:
    path = root / "runs" / rows[0]["id"] / "evals" / f"{made.EVALUATION.id}.json"
    path.write_text(path.read_text()[:50])


def break_index(root: Path, rows: list) -> None:
    for path in (root / "index").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:300])


def delete_index(root: Path, rows: list) -> None:
    shutil.rmtree(root / "index")


CHANGES: list[Callable[[Path, list], None]] = [
    delete_result,
    delete_folder,
    other_flags,
    same_size_same_time,
    fail,
    break_evaluation,
    break_index,
    delete_index,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_is_seen(
    store: tuple[Path, list], change: Callable[[Path, list], None]
) -> None:
    same(*store)
    change(*store)
    same(*store)
    same(*store)


def test_all_changes_one_after_the_other(store: tuple[Path, list]) -> None:
    for number in np.random.default_rng(0).permutation(len(CHANGES)):
        same(*store)
        change = CHANGES[number]
        try:
            change(*store)
        except FileNotFoundError:  # an earlier change took the file away
            continue
        same(*store)


def test_what_a_grid_asks_is_part_of_the_key(store: tuple[Path, list]) -> None:
    root, rows = store
    same(root, rows)
    fewer = [row for row in rows if row["config"]["epsilon_g"] != "8/255"]
    same(root, fewer)  # standard runs are asked for 4/255 only
    same(root, rows)
    same(root, list(reversed(rows)))


def test_sweeps_share_one_index(store: tuple[Path, list], monkeypatch: pytest.MonkeyPatch) -> None:
    root, rows = store
    half = len(rows) // 2
    same(root, rows[:half])
    same(root, rows[half:])
    monkeypatch.setattr("core.store.damage.find", None)
    assert len(Results(root, rows[:half]).curves) == half * 9


def test_young_files_are_read_again(
    store: tuple[Path, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within one tick of the clock would look like none."""
    monkeypatch.setattr("analysis.index.SETTLED", 10**18)  # every file is young
    assert SETTLED >= 1_000_000_000
    root, rows = store
    assert len(Results(root, rows).values)
    read: list[object] = []
    monkeypatch.setattr("core.store.damage.find", lambda run, *_: read.append(run) or [])
    assert len(Results(root, rows).values)
    assert len(read) == len(rows)


def test_a_store_that_cannot_be_written_is_still_read(store: tuple[Path, list]) -> None:
    root, rows = store
    (root / "index").write_text("in the way")
    same(root, rows)


def test_no_index_on_demand(store: tuple[Path, list]) -> None:
    root, rows = store
    assert len(Results(root, rows, index=False).values)
    assert not (root / "index").exists()


def end(root: Path, runs: list) -> None:
    """The first run, which has not ended, ends."""
    made.finish(root, runs[0])
    time.sleep(0.01)


@pytest.fixture
def live(tmp_path: Path) -> tuple[Path, list, list]:
    """A store of two norms whose first run still trains: root, runs, manifest."""
    runs = [made.config(schedule="sched"), made.config(norm="l2", epsilon_g=0.5)]
    made.start(tmp_path, runs[0], 3)
    made.finish(tmp_path, runs[1])
    return tmp_path, runs, made.manifest(tmp_path, runs)


def test_a_run_that_ends_between_two_looks_is_not_kept_as_it_was(
    live: tuple[Path, list, list],
) -> None:
    root, runs, rows = live
    results = Results(root, rows)
    assert results.runs[0].state == "missing"
    end(root, runs)
    assert len(results.values)
    same(root, rows)


def test_a_part_of_the_results_is_read_again(live: tuple[Path, list, list]) -> None:
    root, runs, rows = live
    whole = Results(root, rows)
    assert list(whole.table["state"]) == ["missing", "done"]
    end(root, runs)
    part = whole.only(whole.runs[:1])
    assert list(part.table["state"]) == ["done"] and part.values["value"].notna().all()
    same(root, rows)

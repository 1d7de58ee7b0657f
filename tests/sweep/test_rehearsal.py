"""`sweep dry-run`: real miniatures of several grids, its findings, and no trace in the store."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from core.store.folders import Store
from core.store.json_files import write_json
from slurm.profile import read_profile
from sweep.grid import parse_grid
from sweep.rehearsal import dry_run
from sweep.rehearsal.gpu_memory import Fit, Need
from sweep.state.plan import Plan, State, Status

BASE = "base: {image_size: 32, weights: random, backbone: mini_convnext}"
ONE = f"""
name: one
{BASE}
grid: {{dataset: [cars], epsilon_g: [4/255, 8/255], schedule: [fix, sched]}}
evals: [{{steps: 20}}]
"""
TWO = f"""
name: two
{BASE}
grid: {{epsilon_g: [4/255], schedule: [fix, standard], dataset: [cars, glyph]}}
"""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """In a folder with the two grids."""
    (tmp_path / "one.yaml").write_text(ONE)
    (tmp_path / "two.yaml").write_text(TWO)
    monkeypatch.chdir(tmp_path)
    return call


@pytest.mark.slow
def test_grids_in_miniature_leave_nothing_behind(call: Call, tmp_path: Path) -> None:
    before = {path.name for path in Path("/dev/shm").glob("epsweep-*")}
    code, out, _ = call("dry-run", "one.yaml", "two.yaml", "--root", "outputs")
    assert code == 0
    assert "1 of 8 are shared and run once" in out
    # cars: fix, sched, standard; glyph: fix, and its standard shares that of cars.
    assert "4 distinct miniatures of 7 runs" in out
    assert "4 passed of 4" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert "missing: dataset cars" in out, "it says what a launch would lack"
    table = out[out.index("passed/miniatures") :]
    assert table.splitlines()[1].split() == ["mini_convnext", "3/3", "2/2"]
    assert "Estimated GPU memory if a GPU's whole batch is taken at once" in table
    assert "an upper estimate" in " ".join(table.split()) and rows["mini_convnext"]
    assert not (tmp_path / "outputs").exists()
    assert {path.name for path in Path("/dev/shm").glob("epsweep-*")} == before


@pytest.mark.slow
def test_faults_are_found_and_do_not_hide_each_other(call: Call, tmp_path: Path) -> None:
    """A backbone that cannot take such images and a schedule that does nothing are a line each,
    and what is sound passes."""
    (tmp_path / "bad.yaml").write_text(
        "name: bad\nbase: {weights: random, dataset: fake, image_size: 16, epochs: 4}\n"
        "grid:\n  epsilon_g: [4/255]\n  backbone: [convnext_atto, mini_resnet]\n"
        "  schedule: [standard, fix, {T1: 2, T2: 4}, {T1: 4, T2: 4}]\n"
    )
    code, out, _ = call("dry-run", "bad.yaml", "--root", "outputs")
    assert code == 1
    assert "schedule T1=4;T2=4: never attacks in 4 epochs" in out
    assert "3 passed, 3 failed of 6" in out, "both ramps share a miniature"
    reason = "image_size 16: convnext_atto cannot take such images (Calculated padded"
    (line,) = [line for line in out.splitlines() if reason in line]
    assert "and 2 more" in line


@pytest.mark.slow
def test_a_dataset_that_cannot_be_read_is_a_failure(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dry_run.miniature.miniature.WRITERS, "cars", lambda *_: None)
    grid = parse_grid(TWO, Path("two.yaml"))
    with open(tmp_path / "said", "w") as file:
        console = Console(file=file, width=160)
        profile = read_profile("local")
        found = dry_run.rehearse(grid, grid.runs, store, profile, console)
        console.print(dry_run.report(found, profile))
    assert not found.passed and list(found.broken) == ["cars"]
    assert found.final.counts == {State.DONE: 2}
    said = (tmp_path / "said").read_text()
    assert "dataset cars: ConfigError: " in said and "2 passed of 2" in said


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_rehearsal_that_is_stopped_leaves_nothing_behind(
    call: Call, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Also not where its terminal is closed: its folder may be memory."""
    folders: list[Path] = []

    def stopped(runs: object, store: object, rehearsal: Store) -> None:
        folders.append(rehearsal.root)
        assert rehearsal.root.is_dir()
        os.kill(os.getpid(), number)

    monkeypatch.setattr(dry_run.miniature, "furnish", stopped)
    code, _, err = call("dry-run", "one.yaml", "--root", "outputs")
    assert code == 130 and err == "stopped; a dry run keeps nothing: the next one starts over\n"
    assert len(folders) == 1 and not folders[0].exists()


def test_the_report_says_what_does_not_fit() -> None:
    grid = parse_grid(ONE, Path("one.yaml"))
    pairs = [(run, run) for run in grid.runs]
    final = Plan([Status(run, State.DONE) for run in grid.runs])
    small = Fit("mini_convnext", Need(1e9, 1e9), 64, 40.0)
    found = dry_run.Outcome(pairs, final, {}, [], [small], 61.0)
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(dry_run.report(found, read_profile("local")))
    text = console.export_text()
    assert "4 passed of 4 in 1:01" in text
    assert "more than 40 GB; micro-batches of 32 would fit" in text
    assert found.passed, "such a run goes on with smaller micro-batches by itself"
    none = Fit("mini_convnext", Need(1e12, 1e9), 64, 40.0)
    assert not dry_run.Outcome(pairs, final, {}, [], [none], 61.0).passed


def test_memory_is_of_the_run_that_needs_most(store: Store) -> None:
    grid = parse_grid(ONE.replace("schedule: [fix", "batch: [32, 64], schedule: [fix"), Path("x"))
    for run in grid.runs:
        write_json(store.run(run.id).memory, {"fixed": 1e9, "per_image": 1e6})
    from sweep.rehearsal import gpu_memory

    (found,) = gpu_memory.measured(
        [(run, run) for run in grid.runs], store, read_profile("alliance")
    )
    assert (found.images, found.memory_gb, found.verdict) == (64, 80, "")


def test_workers_and_scratch_follow_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, workers in ((1.0, 1), (8.0, 2), (100.0, 3)):
        monkeypatch.setattr(dry_run, "_free_memory_gb", lambda free=free: free)
        assert dry_run._workers(3) == workers
    monkeypatch.setattr(dry_run, "_free_memory_gb", lambda: 2.0)
    with dry_run._scratch(1) as folder:
        assert dry_run.SHARED_MEMORY not in folder.parents
    assert not folder.exists()

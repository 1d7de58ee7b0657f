"""Cost of orchestration, from a grid file to queued runs and their states, beside other tools.

    python benchmarks/orchestration.py [--peers FOLDER] [--out FILE.md] [--json FILE]

Launches use the real Slurm of the test bed with its partition down, so that jobs are queued but do
not start. Times are of whole processes, including the start of Python, the best of three. `--peers`
creates an environment in FOLDER for dora-search and hydra-submitit-launcher, from PyPI (one pass
each); what cannot be installed is skipped, with a line that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import launchers
import plan
import status
from queueing import PASSES, Queue, Row
from storm import ROOT, origin

from core.store.folders import Store
from slurm.testbed import Bed
from sweep.worker import attempt

SIZES = (120, 1440)
GRID: dict[str, Any] = {
    "name": "launch",
    "base": {"weights": "random", "image_size": 32, "epochs": 1, "backbone": "mini_convnext"},
    "grid": {"dataset": ["fake"], "epsilon_g": ["2/255"], "schedule": ["fix"]},
}
PROFILE = {
    "executor": "slurm",
    "tracking": "none",
    "slurm": {"timeout_min": 20, "slurm_partition": "main", "cpus_per_task": 1, "mem_gb": 1},
    "gpus_per_run": 1,
}
LOCAL = {"executor": "local", "tracking": "none", "workers": 1}


def planning() -> Iterator[Row]:
    for runs, least, spent in plan.costs():
        goal = "< 0.3 s" if runs < 10_000 else "< 5 s"
        yield Row("plan with ids", runs, None, f"floor {least:.3f} s", goal, spent)


def statuses() -> Iterator[Row]:
    for runs, goal in ((1440, "< 1 s, < 200 MB, <= 2 calls"), (10_000, "< 5 s")):
        seen = status.cost(runs)
        note = f"{seen.memory:.0f} MB, {seen.calls} scheduler calls, floor {seen.floor:.2f} s"
        yield Row("status", seen.runs, seen.wall, note, goal, seen.cpu)


def ours(folder: Path, runs: int) -> list[str]:
    (folder / "launch.yaml").write_text(json.dumps(GRID | {"seeds": list(range(runs))}))
    (folder / "mine.yaml").write_text(json.dumps(PROFILE))
    return _launch(folder)


def _launch(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "sweep.cli", "launch", str(folder / "launch.yaml")]
    return [*command, "--profile", str(folder / "mine.yaml"), "--root", str(folder / "root")]


def launches(queue: Queue) -> Iterator[Row]:
    for runs in SIZES:
        goal = "< 2 s, a few sbatch, files O(arrays)" if runs == 1440 else ""
        yield queue.measure("launch", runs, lambda folder, n=runs: ours(folder, n), goal)  # type: ignore[misc]
    yield from launchers.submitit(queue, SIZES)


def overheads() -> Iterator[Row]:
    yield _nothing()
    yield _finished()


def _nothing(runs: int = 50) -> Row:
    """Cost of an attempt without any work: claim, heartbeat, log, record of its outcome."""
    times = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(runs):
            started = time.perf_counter()
            claim = attempt.claim_for(Store(Path(name)).run(f"run-{number}"))
            if claim is None or attempt.conduct(claim, dict, "nothing", None) != "done":
                raise ValueError("the attempt is not done")
            times.append(time.perf_counter() - started)
    note = "attempt.conduct without work: claim, heartbeat, log, record of the outcome; the median"
    return Row("a run without work", runs, sorted(times)[runs // 2], note, "< 0.05 s each")


def _finished(runs: int = 21) -> Row:
    """Seconds that a local worker spends on a run that lacks only its result: it reads data, model
    and the final checkpoint, computes nothing, and writes the result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = {**GRID, "grid": GRID["grid"] | {"schedule": ["standard"]}}
        (folder / "launch.yaml").write_text(json.dumps(grid | {"seeds": list(range(runs))}))
        (folder / "mine.yaml").write_text(json.dumps(LOCAL))
        results = [*_launched(folder)]
        best = float("inf")
        for _ in range(PASSES):
            for path in results:
                path.unlink()
            ends = sorted(path.stat().st_mtime for path in _launched(folder))
            best = min(best, (ends[-1] - ends[0]) / (runs - 1))
    note = "local executor: reads data, model and checkpoint, writes the result"
    return Row("a run that lacks only its result", runs, best, note)


def _launched(folder: Path) -> Iterator[Path]:
    """Launch on this machine; returns the result files of all runs."""
    subprocess.run(
        _launch(folder), env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
    )
    return (folder / "root" / "runs").glob("*/result.json")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(rows: list[Row]) -> str:
    """The rows as a page in Markdown, with machine and commit."""
    lines = ["# What orchestrating costs", "", f"{origin()}, {time.strftime('%Y-%m-%d')}", ""]
    lines += [
        f"Load {os.getloadavg()[0]:.1f} at the end; seconds are of wall clock and of CPU.",
        "",
    ]
    lines += ["| what | runs | wall | CPU | goal | |", "|:--|--:|--:|--:|:--|:--|"]
    for row in rows:
        runs = f"{row.runs:,}" if row.runs else ""
        spent = f"{_seconds(row.seconds)} | {_seconds(row.cpu)}"
        lines.append(f"| {row.what} | {runs} | {spent} | {row.goal} | {row.note} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder for the environment of other tools")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows: list[Row] = []

    def take(found: Iterator[Row]) -> None:
        for row in found:
            spent = f"{_seconds(row.seconds):>9} {_seconds(row.cpu):>9}"
            print(f"{row.what:32} {row.runs:>7,} {spent}  {row.note}", flush=True)
            rows.append(row)

    take(statuses())  # first, since a process's peak memory includes that of its parent at the fork
    take(planning())
    with tempfile.TemporaryDirectory() as name, Bed(acct="none", max_array_size=2001) as bed:
        queue = Queue(bed, Path(name))
        take(launches(queue))
        if options.peers:
            take(launchers.others(queue, options.peers.absolute(), SIZES))
    take(overheads())
    if options.out:
        options.out.write_text(table(rows))
    if options.json:
        about = {"origin": origin(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Cost of `sweep status`: seconds, memory and calls of Slurm, compared with the least that any tool
must do, which is to list every run's folder and parse the files that show its state.

    python benchmarks/status.py [--runs 1440 10000]

Makes stores of invented run folders in the real format: a quarter each done, running, failed and
waiting in a Slurm array. squeue and sacct are stand-ins that count their calls. Times are of whole
processes, including the start of Python, also for the floor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.store.claims import now
from core.store.damage import checksums
from core.store.folders import RunDir, Store, SweepDir
from core.store.json_files import write_jsonl
from sweep.grid import Grid, load_grid
from sweep.submit import submissions

ROOT = Path(__file__).parents[1]
IMAGES = 5000
"""Number of images in the evaluation of a finished run."""
SWEEP = (sys.executable, "-c", "from epsweep.command import main; main()")
"""The console script of this checkout."""
STATES = ("done", "running", "failed", "pending")
EVALUATION = {
    "config": {"attack": "apgd-ce", "norm": "linf", "split": "test"},
    "rows": [
        {"epsilon": f"{level}/255", "norm": "linf", "n": IMAGES, "correct": IMAGES - level}
        for level in range(9)
    ],
    "n": IMAGES,
    "split_images": IMAGES,
}
EPOCHS = 50
EPOCH = {
    "epsilon": 4 / 255,
    "lr": 1e-4,
    "train_loss": 2.345678901234,
    "train_clean_correct": 2100,
    "train_images": 3333,
    "val_loss": 1.234567890123,
    "val_clean_correct": 500,
    "val_clean_images": 1000,
    "val_adv_correct": 250,
    "val_adv_images": 1000,
    "val_epsilon": "4/255",
    "seconds": 12.25,
    "images_per_s": 245.5,
}
FLAGS = {name: np.arange(IMAGES, dtype=np.int32) for name in ("index", "critical", "label")}
FLOOR = """
import json, os, sys
for run in os.scandir(sys.argv[1]):
    for file in os.scandir(run.path):
        if file.name.startswith("claim-") or file.name == "result.json":
            with open(file.path) as opened:
                json.load(opened)
"""


def make(folder: Path, runs: int) -> tuple[Grid, Store]:
    """Write a grid file and a store with its runs in all four states."""
    data = {
        "name": "many",
        "base": {"epochs": EPOCHS},
        "grid": {
            "backbone": ["vit", "swin", "cnx", "r50"],
            "dataset": [f"/data/{i}" for i in range(5)],
            "epsilon_g": ["4/255", "8/255"],
        },
        "seeds": list(range(runs // 40)),
    }
    path = folder / "many.yaml"
    path.write_text(json.dumps(data))  # JSON is YAML
    loaded, store = load_grid(path), Store(folder / "root")
    sweep = submissions.record_grid(loaded, store)
    for number, run in enumerate(loaded.runs):
        state = STATES[number % 4]
        if state != "pending":
            begin(store.run(run.id).path, state, [item.id for item in run.evals])
    queue(loaded, sweep)
    return loaded, store


def begin(folder: Path, state: str, evals: list[str]) -> None:
    """Write the files of a run that is running on another machine, or has ended."""
    folder.mkdir(parents=True)
    claim = {
        "attempt": 1,
        "host": "node7",
        "machine": "elsewhere",
        "pid": 1,
        "pid_start": "1",
        "stale_s": 1e6,
        "job": "6",
        "gpus": 1.0,
        "started": now(),
        "since": time.time() - 3600,
        "outcome": None if state == "running" else state,
        "reason": "ValueError: no such layer (models.py:7)" if state == "failed" else None,
        "progress": {"phase": "train", "epoch": 9, "epochs": 50, "share": 0.2, "left_s": 60.0},
    }
    (folder / "claim-0001.json").write_text(json.dumps(claim, indent=1))
    for name in ("config.yaml", "log.txt", "attempts.jsonl"):
        (folder / name).touch()
    epochs = EPOCHS if state == "done" else 9
    write_jsonl(folder / "metrics.jsonl", ({"epoch": number} | EPOCH for number in range(epochs)))
    (folder / "env.json").write_text('{"device": "NVIDIA H100 80GB HBM3", "processes": 1}')
    if state == "done":
        (folder / "evals").mkdir()
        for name in evals:
            flags = folder / "evals" / f"{name}.npz"
            np.savez_compressed(flags, **FLAGS)
            record = EVALUATION | {"flags_crc32": zlib.crc32(flags.read_bytes())}
            flags.with_suffix(".json").write_text(json.dumps(record))
        result = {"evals": evals, "epochs": EPOCHS, "seconds": 3.0}
        result |= {"inputs": {"data": None, "weights": None, "hub": None}}
        sums = {"crc32": checksums(RunDir(folder), evals)}
        (folder / "result.json").write_text(json.dumps(result | sums))


def queue(loaded: Grid, sweep: SweepDir) -> None:
    """Record the submission of all runs as one Slurm array."""
    write_jsonl(
        sweep.path / "submission-0001.jsonl",
        (submissions.manifest_row(run) | {"after": 0} for run in loaded.runs),
    )
    array = {"executor": "slurm", "manifest": "submission-0001.jsonl", "name": "many", "array": "7"}
    rows = {"tasks": len(loaded.runs), "first": 0, "end": len(loaded.runs), "per": 1}
    write_jsonl(sweep.submissions, [array | rows])


def scheduler(folder: Path, runs: int) -> Path:
    """Write scripts squeue and sacct that answer for the array and record each call."""
    waiting = ",".join(str(i) for i in range(3, runs, 4))
    answer = f"7_[{waiting}%64]|PENDING|Resources||0|N/A|many|"
    for name, text in (("squeue", answer), ("sacct", "")):
        (folder / f"{name}.out").write_text(f"{text}\n")
        script = folder / name
        script.write_text(f"#!/bin/sh\necho >> {folder}/calls\ncat {folder}/{name}.out\n")
        script.chmod(0o755)
    return folder


def environ(folder: Path) -> dict[str, str]:
    """The environment for a command of this checkout, with byte code cached in `folder` as an
    installation caches it beside its modules."""
    kept = {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | kept


def measure(command: list[str], variables: dict[str, str]) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, MB of peak memory) of a command; the fastest of three."""
    best = (float("inf"), 0.0, 0.0)
    for _ in range(3):
        started = time.perf_counter()
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
        _, ended, used = os.wait4(process.pid, 0)  # usage of this process and its children only
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(ended)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        best = min(best, (wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3))
    return best


class Cost(NamedTuple):
    """Cost of a `sweep status`: wall and CPU seconds, MB, Slurm calls; and seconds of the floor."""

    runs: int
    wall: float
    cpu: float
    memory: float
    calls: int
    floor: float


def cost(runs: int) -> Cost:
    """The cost for a store with `runs` runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded, store = make(folder, runs)
        tools = scheduler(folder, len(loaded.runs))
        path = {"PATH": f"{tools}:{os.environ['PATH']}"}
        ours = environ(folder) | path
        status = [*SWEEP, "status", str(folder / "many.yaml")]
        floor, _, _ = measure([sys.executable, "-c", FLOOR, str(store.runs)], ours)
        wall, cpu, memory = measure([*status, "--root", str(store.root)], ours)
        calls = len((folder / "calls").read_text().splitlines()) // 3
    return Cost(len(loaded.runs), wall, cpu, memory, calls, floor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[1440, 10_000])
    print(
        f"{'runs':>7}  {'status':>8}  {'CPU':>7}  {'memory':>7}  {'Slurm calls':>11}  {'floor':>7}"
    )
    for runs in parser.parse_args().runs:
        seen = cost(runs)
        print(
            f"{seen.runs:>7,}  {seen.wall:>6.2f} s  {seen.cpu:>5.2f} s  {seen.memory:>4.0f} MB  "
            f"{seen.calls:>11}  {seen.floor:>5.2f} s"
        )


if __name__ == "__main__":
    main()

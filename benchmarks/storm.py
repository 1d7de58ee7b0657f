"""Fault injection: the demo on a real Slurm whose daemons, nodes, jobs and processes are killed.

`sweep launch` sends pretraining and fine-tuning of `sweep demo` to a test bed of two nodes. During
this "storm", two jobs are requeued, a process is killed, a job is cancelled, another preempted, a
node loses its slurmd, another its power, and slurmctld is killed. Runs that Slurm does not requeue
are launched and retried, as a user would do. In the end every run must be done, none may have been
held by two attempts at once, and the tables must equal those of an undisturbed execution on this
machine, here called calm.

    python benchmarks/storm.py [--small] [--out benchmarks/results/storm.txt]

Takes up to half an hour on two cores; `--small` (8 runs of 6 epochs) takes two minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from troubles import ROOT, Place, Storm, counted

from core.store import source
from core.store.folders import RunDir
from core.store.json_files import read_jsonl
from slurm.testbed import Bed, BedError

BED: dict[str, Any] = {"nodes": 2, "gpus": 4, "cpus": 2, "kill_wait": 2, "slurmd_timeout": 8}
"""Eight GPUs, but only four runs at a time, since a node has two CPUs and a run uses one."""
ENV = {"EPSWEEP_HEARTBEAT_S": "1", "EPSWEEP_STALE_S": "20"}
PROFILES: dict[str, dict[str, Any]] = {
    "slurm": {
        "executor": "slurm",
        "tracking": "none",
        "heartbeat_s": 1.0,
        "stale_s": 20.0,
        "max_requeues": 10,
        "slurm": {
            "timeout_min": 30,
            "slurm_partition": "preemptible",
            "cpus_per_task": 1,
            "mem_gb": 2,
            "slurm_signal_delay_s": 30,
        },
    },
    "local": {"executor": "local", "tracking": "none", "workers": 2},
}
SMALL: dict[str, dict[str, Any]] = {
    "demo_source": {"base.epochs": 1, "base.validation.images": 16, "evals.0.images": 16},
    "demo": {
        "base.epochs": 6,
        "base.batch": 64,
        "base.validation.images": 16,
        "evals.0.images": 32,
        "grid.dataset": ["glyph"],
        "grid.schedule": ["fix", "sched"],
        "exclude": None,
    },
}
"""Changes for the small demo: two pretrainings of one epoch and eight runs of six."""


@dataclass(frozen=True)
class Outcome:
    """The result of a storm."""

    states: dict[str, int]
    """Number of runs in each state."""
    attempts: dict[str, int]
    """Number of attempts, over all runs, with each outcome."""
    overlaps: list[str]
    """Runs that two attempts held at the same time."""
    differing: list[str]
    """Runs whose metrics or evaluations differ in any digit from those of the calm execution."""
    tables: tuple[str, str]
    """Output of `sweep tables` after the storm and after the calm execution."""

    @property
    def fine(self) -> bool:
        """Whether all runs are done with the results of the calm execution."""
        lost = self.overlaps or self.differing or self.tables[0] != self.tables[1]
        return set(self.states) == {"done"} and not lost


def write(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Write the demo's two grids with changes ({grid: {dotted key: value}}; None removes the key),
    and the profiles."""
    for name in ("demo_source", "demo"):
        text: Any = yaml.safe_load((ROOT / "grids" / f"{name}.yaml").read_text())
        for place, value in changes.get(name, {}).items():
            *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
            inner = text
            for key in way:
                inner = inner[key]
            if value is None:
                del inner[last]
            else:
                inner[last] = value
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(text))
    for name, profile in PROFILES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(profile))


def measured(run: RunDir) -> list[Any]:
    """The results of a run: all epochs and evaluations, without timings."""
    timed = {"seconds", "images_per_s"}
    rows = [{k: v for k, v in row.items() if k not in timed} for row in read_jsonl(run.metrics)]
    evals = [json.loads(file.read_text()) for file in sorted(run.path.glob("evals/*.json"))]
    return [*rows, *(item["rows"] for item in evals)]


def overlaps(run: RunDir) -> bool:
    """Whether attempts are not numbered 1, 2, ..., or one began before the recorded end of the
    previous one."""
    rows = read_jsonl(run.attempts)
    numbered = [row["attempt"] for row in rows] == [*range(1, len(rows) + 1)]
    return not numbered or any(
        before["ended"] is not None and before["ended"] > after["started"]
        for before, after in itertools.pairwise(rows)
    )


def calm(place: Place) -> None:
    """Run both grids, one after the other, undisturbed."""
    place.launch("demo_source")
    place.publish()
    place.launch("demo")


def run_storm(bed: Bed, place: Place) -> None:
    """Run both grids on the bed, the second one during the storm."""
    weather = Storm(bed, place)
    place.launch("demo_source")
    weather.calm_down("demo_source")
    place.publish()
    place.launch("demo")
    weather.strike()
    weather.calm_down("demo")


def compare(stormy: Place, calm: Place) -> Outcome:
    """Compare the stores after a storm and after a calm execution."""
    runs = [run for name in ("demo_source", "demo") for run in stormy.grid(name).runs]
    folders = [stormy.store.run(run.id) for run in runs]
    ends = Counter(row["outcome"] for f in folders for row in read_jsonl(f.attempts))
    same = {run.id: measured(calm.store.run(run.id)) for run in runs}
    return Outcome(
        states=stormy.states("demo"),
        attempts=dict(ends),
        overlaps=[folder.path.name for folder in folders if overlaps(folder)],
        differing=[f.path.name for f in folders if measured(f) != same[f.path.name]],
        tables=(stormy.sweep("tables", "demo"), calm.sweep("tables", "demo")),
    )


def play(folder: Path, bed: Bed, say: Callable[[str], None], *, small: bool) -> Outcome:
    """Make the calm execution, then the storm, and compare them. The bed must be up, and this
    process must have its environment variables."""
    write(folder, SMALL if small else {})
    two = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    # Two local workers divide the CPUs they may use: with two CPUs, each has one thread.
    quiet = Place(folder, "local", {}, say, ["taskset", "-c", two])
    say("calm execution on this machine")
    calm(quiet)
    say("the same on the test bed")
    stormy = Place(folder, "slurm", ENV, say)
    run_storm(bed, stormy)
    return compare(stormy, quiet)


def origin() -> str:
    """Machine and commit of a measurement, as one line."""
    cpus, commit = len(os.sched_getaffinity(0)), source.commit()
    with suppress(OSError):
        models = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2]
        return f"{cpus} cores ({models.partition(chr(10))[0]}), {commit}"
    return f"{cpus} cores ({platform.machine()}), {commit}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="8 short runs instead of the demo")
    parser.add_argument("--out", type=Path, help="also write the log to this file")
    options = parser.parse_args()
    started, lines = time.monotonic(), list[str]()

    def say(text: str) -> None:
        lines.append(f"{time.monotonic() - started:7.1f} s  {text}")
        print(lines[-1], flush=True)

    say(f"{origin()}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as name, Bed(acct="none", **BED) as bed:
        os.environ.update(bed.env() | ENV)
        outcome = play(Path(name), bed, say, small=options.small)
    say(f"runs of demo: {counted(outcome.states)}")
    say(f"attempts at all runs: {counted(outcome.attempts)}")
    say(f"runs held by two attempts at once: {len(outcome.overlaps)}")
    say(f"runs whose numbers differ from the calm execution: {len(outcome.differing)}")
    say(f"`sweep tables` prints the same: {outcome.tables[0] == outcome.tables[1]}")
    if options.out:
        text = "\n".join([*lines, "", "sweep tables demo, after the storm:", "", outcome.tables[0]])
        options.out.write_text(text.rstrip() + "\n")
    return 0 if outcome.fine else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BedError as error:
        sys.exit(str(error))

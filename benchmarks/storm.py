"""A storm over the demo: a real Slurm whose daemons, nodes, jobs and processes die while it runs.

Pretraining and fine-tuning of `sweep demo` go through `sweep launch` to a test bed of two nodes.
Meanwhile two jobs are requeued, a process is killed, a job is cancelled, another preempted, a node
loses its slurmd, another its power, and slurmctld is killed. What is not queued again by itself is
launched and retried, as a user would. In the end every run has to be done, none may have been held
by two attempts at once, and the tables have to be those of a calm execution on this machine.

    python benchmarks/storm.py [--small] [--out benchmarks/results/storm.txt]

Half an hour on two cores at most; `--small` (8 runs of 6 epochs) takes two minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from core import source
from core.claims import Holder, holder
from core.rundir import RunDir, Store, read_jsonl
from slurm.testbed import Bed, BedError
from sweep import demo, launch
from sweep import grid as grids
from sweep.grid import Grid, Run

ROOT = Path(__file__).parents[1]
BED: dict[str, Any] = {"nodes": 2, "gpus": 4, "cpus": 2, "kill_wait": 2, "slurmd_timeout": 8}
"""Eight GPUs, but four runs at a time: a node has two CPUs, and a run takes one."""
ENV = {"EPSWEEP_HEARTBEAT_S": "1", "EPSWEEP_STALE_S": "10"}
PROFILES: dict[str, dict[str, Any]] = {
    "slurm": {
        "executor": "slurm",
        "tracking": "none",
        "heartbeat_s": 1.0,
        "stale_s": 10.0,
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
        "base.validation.images": 16,
        "evals.0.images": 32,
        "grid.dataset": ["glyph"],
        "grid.schedule": ["fix", "sched"],
    },
}
"""What makes the demo small: two pretrainings of one epoch, and eight runs of six."""
PATIENCE_S = 240.0
"""Seconds in which something has to happen; importing torch takes long on a busy machine."""
DOWN_S = 2.0
"""How long a daemon or node is away."""


@dataclass(frozen=True)
class Outcome:
    """What a storm left behind."""

    states: dict[str, int]
    attempts: dict[str, int]
    """How many attempts at all runs ended how."""
    overlaps: list[str]
    """Runs that two attempts held at the same time."""
    differing: list[str]
    """Runs whose metrics or evaluations are not, to the last digit, those of the calm execution."""
    tables: tuple[str, str]
    """What `sweep tables` prints: after the storm, after the calm."""

    @property
    def fine(self) -> bool:
        """Whether the storm changed nothing."""
        lost = self.overlaps or self.differing or self.tables[0] != self.tables[1]
        return set(self.states) == {"done"} and not lost


@dataclass
class Place:
    """One store with the two grids of the demo, driven through the command line."""

    folder: Path
    profile: str
    environ: dict[str, str]
    say: Callable[[str], None]
    threads: list[str] = field(default_factory=list)
    """A command before the command, which limits it to as many CPUs as it has workers."""

    @property
    def store(self) -> Store:
        return Store(self.folder / self.profile)

    def grid(self, name: str) -> Grid:
        return grids.load(self.folder / f"{name}.yaml")

    def sweep(self, verb: str, name: str, *options: str) -> str:
        """What `sweep VERB GRID` prints. Raises CalledProcessError."""
        if verb in ("launch", "retry"):
            options = (*options, "--profile", str(self.folder / f"{self.profile}.yaml"))
        command = [sys.executable, "-m", "sweep.cli", verb, str(self.folder / f"{name}.yaml")]
        done = subprocess.run(
            [*self.threads, *command, "--root", str(self.store.root), *options],
            env=os.environ | self.environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def launch(self, name: str, verb: str = "launch") -> None:
        """Launch or retry a grid, and say what came of it."""
        said = self.sweep(verb, name).splitlines()
        told = [line for line in said if "submitted" in line or "nothing to" in line]
        self.say(f"sweep {verb} {name}: {'; '.join(told) or 'done'}")

    def states(self, name: str) -> dict[str, int]:
        """How many runs are in which state."""
        counts = launch.look(self.grid(name), self.store).counts
        return {str(state): n for state, n in counts.items() if n}

    def publish(self) -> None:
        """Make the pretrained checkpoints the weights that the demo starts from."""
        demo.publish(self.grid("demo_source"), self.grid("demo"), self.store)


@dataclass
class Storm:
    """The disturbances, each of which waits for somebody to meet."""

    bed: Bed
    place: Place
    met: set[str] = field(default_factory=set)
    """Runs that were struck by name: others come first."""

    def strike(self) -> None:
        """Everything once, in an order in which one trouble meets the consequences of the last."""
        self.requeue()
        self.kill()
        self.lose_slurmd()
        self.cancel()
        self.crash()
        self.lose_slurmctld()
        self.preempt()
        self.requeue()

    def requeue(self) -> None:
        current = self._meet("scontrol requeue")
        self.bed.run("scontrol", "requeue", current.info["job"])

    def kill(self) -> None:
        current = self._meet("SIGKILL to the process of")
        os.kill(int(current.info["pid"]), signal.SIGKILL)
        self._wait(lambda: "interrupted" in self.place.states("demo"), "an interrupted run")
        self.place.launch("demo")

    def cancel(self) -> None:
        """scancel by hand, then `sweep retry`."""
        current = self._meet("scancel")
        self.bed.run("scancel", current.info["job"])
        self._wait(lambda: "cancelled" in self.place.states("demo"), "a cancelled run")
        self.place.launch("demo", "retry")

    def preempt(self) -> None:
        """A job of higher priority that needs the whole node of a run."""
        node = self._node(self._meet("a job of higher priority takes the node of"))
        whole = ("-p", "main", "-w", node, "--exclusive")
        self.bed.run("sbatch", *whole, "-o", "/dev/null", "--wrap", "sleep 3")

    def lose_slurmd(self) -> None:
        """The daemon alone: its jobs run on, and nobody may notice."""
        node = self._node(self._meet("slurmd killed under"))
        self.bed.stop_daemon(node)
        time.sleep(DOWN_S)
        self.bed.start_daemon(node)
        self.place.say(f"slurmd of {node} is back")

    def crash(self) -> None:
        """Daemon, steps and processes of a node are gone at once; it boots, and has no jobs."""
        node = self._node(self._meet("power cut at the node of"))
        self.bed.crash(node)
        time.sleep(DOWN_S)
        self.bed.start_daemon(node)
        self.bed.wait_idle()
        self.place.say(f"{node} is back")

    def lose_slurmctld(self) -> None:
        """Killed: it forgets what it has not written down yet."""
        self.bed.stop_daemon("slurmctld")
        self.place.say("slurmctld killed")
        time.sleep(DOWN_S)
        self.bed.start_daemon("slurmctld")
        self.bed.wait_idle()
        self.place.say("slurmctld is back")

    def calm_down(self, name: str) -> None:
        """Launch and retry, as a user would, until every run is done, or that does not help."""
        for _ in range(6):
            self._wait(lambda: not self._busy(name), "the queue to empty", 10 * PATIENCE_S)
            states = self.place.states(name)
            self.place.say(f"{name}: {_counted(states)}")
            if set(states) == {"done"}:
                return
            if {"failed", "cancelled"} & set(states):
                self.place.launch(name, "retry")
            if {"new", "interrupted", "unevaluated", "pending"} & set(states):
                self.place.launch(name)

    def _busy(self, name: str) -> bool:
        seen = launch.look(self.place.grid(name), self.place.store).statuses
        return any(s.state in ("pending", "running") and not s.held for s in seen)

    def _meet(self, trouble: str) -> Holder:
        """The run to strike: one that has just begun to train, so that there is much to lose."""
        runs = self.place.grid("demo").runs
        found: list[tuple[float, str]] = []

        def somebody() -> bool:
            fresh = [run for run in runs if self._is_fresh(run)]
            found[:] = [item for run in fresh or runs for item in self._at(run)]
            return bool(found)

        self._wait(somebody, "a run in training")
        run_id = min(found)[-1]
        current = holder(self.place.store.run(run_id))
        assert current  # `_at` has seen it
        self.met.add(run_id)
        epoch, job = current.info["progress"]["epoch"], current.info["job"]
        self.place.say(f"{trouble} {run_id.rpartition('-')[0]} (job {job}, epoch {epoch})")
        return current

    def _is_fresh(self, run: Run) -> bool:
        """Neither struck before nor done."""
        return run.id not in self.met and not self.place.store.run(run.id).result.exists()

    def _at(self, run: Run) -> list[tuple[float, str]]:
        """(share done, id) of a run that is in training."""
        current = holder(self.place.store.run(run.id))
        if current is None or not current.live:
            return []
        progress = current.info.get("progress") or {}
        finished, wanted = progress.get("epoch", 0), run.config.epochs
        begun = progress.get("phase") == "train" and 1 <= finished < wanted - 1
        return [(finished / wanted, run.id)] if begun else []

    def _node(self, current: Holder) -> str:
        return self.bed.run("squeue", "-h", "-o", "%N", "-j", current.info["job"]).strip()

    def _wait(self, happened: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            time.sleep(0.3)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def write(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    """The two grids of the demo with changes ({grid: {dotted place: value}}), and the profiles."""
    for name in ("demo_source", "demo"):
        text: Any = yaml.safe_load((ROOT / "grids" / f"{name}.yaml").read_text())
        for place, value in changes.get(name, {}).items():
            *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
            inner = text
            for key in way:
                inner = inner[key]
            inner[last] = value
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(text))
    for name, profile in PROFILES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(profile))


def measured(run: RunDir) -> list[Any]:
    """What a run measured: every epoch and every evaluation, without timings."""
    timed = {"seconds", "images_per_s"}
    rows = [{k: v for k, v in row.items() if k not in timed} for row in read_jsonl(run.metrics)]
    evals = [json.loads(file.read_text()) for file in sorted(run.path.glob("evals/*.json"))]
    return [*rows, *(item["rows"] for item in evals)]


def overlaps(run: RunDir) -> bool:
    """Whether an attempt began before the one before it had ended, as far as that could say so."""
    rows = read_jsonl(run.attempts)
    numbered = [row["attempt"] for row in rows] == [*range(1, len(rows) + 1)]
    return not numbered or any(
        before["ended"] is not None and before["ended"] > after["started"]
        for before, after in itertools.pairwise(rows)
    )


def calm(place: Place) -> None:
    """Both grids, one after the other, undisturbed."""
    place.launch("demo_source")
    place.publish()
    place.launch("demo")


def storm(bed: Bed, place: Place) -> None:
    """Both grids on the bed, the second one under the storm."""
    weather = Storm(bed, place)
    place.launch("demo_source")
    weather.calm_down("demo_source")
    place.publish()
    place.launch("demo")
    weather.strike()
    weather.calm_down("demo")


def compare(stormy: Place, calm: Place) -> Outcome:
    """The stores after a storm and after a calm execution."""
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
    """The calm execution, the storm, and the comparison. The bed has to be up, and this process
    has to have its environment."""
    write(folder, SMALL if small else {})
    two = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    # A local worker takes its share of the CPUs it may use: with two for two it is one thread.
    quiet = Place(folder, "local", {}, say, ["taskset", "-c", two])
    say("calm execution on this machine")
    calm(quiet)
    say("the same on the test bed")
    stormy = Place(folder, "slurm", ENV, say)
    storm(bed, stormy)
    return compare(stormy, quiet)


def origin() -> str:
    """Machine and commit of a measurement, on one line."""
    code, cpus = source.state(), len(os.sched_getaffinity(0))
    commit = f"{str(code['commit'])[:7]}{' with changes' if code['dirty'] else ''}"
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
    say(f"runs of demo: {_counted(outcome.states)}")
    say(f"attempts at all runs: {_counted(outcome.attempts)}")
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

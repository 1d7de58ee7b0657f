"""The faults that a storm injects on a test bed: loss of jobs, processes, daemons and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.store.folders import Store
from core.store.holder import Holder, find_holder
from slurm.testbed import Bed
from sweep import demo, launcher
from sweep.grid import Grid, Run, load_grid

ROOT = Path(__file__).parents[1]
PATIENCE_S = 240.0
"""Seconds to wait for an event; importing torch takes long on a busy machine."""
DOWN_S = 2.0
"""Seconds for which a daemon or node is down."""


@dataclass
class Place:
    """A store with the demo's two grids, used through the command line."""

    folder: Path
    profile: str
    environ: dict[str, str]
    say: Callable[[str], None]
    threads: list[str] = field(default_factory=list)
    """A prefix for commands, such as taskset, that limits them to as many CPUs as workers."""

    @property
    def store(self) -> Store:
        return Store(self.folder / self.profile)

    def grid(self, name: str) -> Grid:
        return load_grid(self.folder / f"{name}.yaml")

    def sweep(self, verb: str, name: str, *options: str) -> str:
        """The output of `sweep VERB GRID`. Raises CalledProcessError."""
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
        """Launch or retry a grid, and report what was submitted."""
        said = self.sweep(verb, name).splitlines()
        told = [line for line in said if "submitted" in line or "nothing to" in line]
        self.say(f"sweep {verb} {name}: {'; '.join(told) or 'done'}")

    def states(self, name: str) -> dict[str, int]:
        """Number of runs in each state."""
        counts = launcher.look(self.grid(name), self.store).counts
        return {str(state): n for state, n in counts.items() if n}

    def publish(self) -> None:
        """Install the pretrained checkpoints as the weights that the demo starts from."""
        demo.publish(self.grid("demo_source"), self.grid("demo"), self.store)


@dataclass
class Storm:
    """The faults; each waits until there is a run to hit."""

    bed: Bed
    place: Place
    met: set[str] = field(default_factory=set)
    """Runs that were hit already; others are preferred."""

    def strike(self) -> None:
        """Inject all faults, in an order in which each hits while the last one has consequences."""
        self.requeue()
        self.kill()
        self.lose_slurmd()
        self.requeue()
        self.cancel()
        self.crash()
        self.preempt()
        self.lose_slurmctld()

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
        """Submit a job of higher priority that needs the whole node of a run."""
        node = self._node(self._meet("a job of higher priority takes the node of"))
        whole = ("-p", "main", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
        job = self.bed.run("sbatch", "--parsable", *whole).strip()
        begun = ("squeue", "-h", "-t", "R,CG,CD", "-o", "%i", "-j", job)
        self._wait(lambda: bool(self.bed.run(*begun).strip()), "the job to take it")

    def lose_slurmd(self) -> None:
        """Kill only slurmd on a node; its jobs keep running and must not be affected."""
        node = self._node(self._meet("slurmd killed under"))
        self.bed.stop_daemon(node)
        time.sleep(DOWN_S)
        self.bed.start_daemon(node)
        self.place.say(f"slurmd of {node} is back")

    def crash(self) -> None:
        """Kill daemon, steps and processes of a node at once; then start it again without jobs."""
        node = self._node(self._meet("power cut at the node of"))
        self.bed.crash(node)
        time.sleep(DOWN_S)
        self.bed.start_daemon(node)
        self.bed.wait_idle()
        self.place.say(f"{node} is back")

    def lose_slurmctld(self) -> None:
        """Kill slurmctld, which loses what it has not yet saved."""
        self.bed.stop_daemon("slurmctld")
        self.place.say("slurmctld killed")
        time.sleep(DOWN_S)
        self.bed.start_daemon("slurmctld")
        self.bed.wait_idle()
        self.place.say("slurmctld is back")

    def calm_down(self, name: str) -> None:
        """Launch and retry, as a user would, until every run is done, at most six times."""
        for _ in range(6):
            self._wait(lambda: not self._busy(name), "the queue to empty", 10 * PATIENCE_S)
            states = self.place.states(name)
            self.place.say(f"{name}: {counted(states)}")
            if set(states) == {"done"}:
                return
            if {"failed", "cancelled"} & set(states):
                self.place.launch(name, "retry")
            if {"new", "interrupted", "unevaluated", "pending"} & set(states):
                self.place.launch(name)

    def _busy(self, name: str) -> bool:
        seen = launcher.look(self.place.grid(name), self.place.store).statuses
        return any(s.state in ("pending", "running") and not s.held for s in seen)

    def _meet(self, trouble: str) -> Holder:
        """Wait for a run to hit and return its claim: the one least far in its training, so that
        most of it is still to come. trouble: for the log."""
        runs = self.place.grid("demo").runs
        found: list[tuple[float, str]] = []

        def somebody() -> bool:
            fresh = [run for run in runs if self._is_fresh(run)]
            found[:] = [item for run in fresh or runs for item in self._at(run)]
            return bool(found)

        self._wait(somebody, "a run in training")
        run_id = min(found)[-1]
        current = find_holder(self.place.store.run(run_id))
        assert current  # `_at` has seen it
        self.met.add(run_id)
        epoch, job = current.info["progress"]["epoch"], current.info["job"]
        self.place.say(f"{trouble} {run_id.rpartition('-')[0]} (job {job}, epoch {epoch})")
        return current

    def _is_fresh(self, run: Run) -> bool:
        """Whether a run was neither hit before nor is done."""
        return run.id not in self.met and not self.place.store.run(run.id).result.exists()

    def _at(self, run: Run) -> list[tuple[float, str]]:
        """[(share done, id)] of a run that is being trained, else []."""
        current = find_holder(self.place.store.run(run.id))
        if current is None or not current.live:
            return []
        progress = current.info.get("progress") or {}
        finished, wanted = progress.get("epoch", 0), run.config.epochs
        begun = progress.get("phase") == "train" and 1 <= finished < wanted - 1
        # After a power cut the last heartbeat still counts for a while: check the process, too.
        begun = begun and Path(f"/proc/{current.info['pid']}").exists()
        return [(finished / wanted, run.id)] if begun else []

    def _node(self, current: Holder) -> str:
        return self.bed.run(
            "squeue", "-h", "-t", "all", "-o", "%N", "-j", current.info["job"]
        ).strip()

    def _wait(self, happened: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            time.sleep(0.3)


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())

"""Sweeps on a test bed: tiny grids, their profile, and what became of their runs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from waiting import until

from core.store.folders import RunDir, Store, SweepDir
from core.store.holder import Holder, find_holder
from core.store.json_files import read_jsonl
from slurm.profile import Profile, read_profile
from slurm.testbed import Bed
from sweep import launcher
from sweep.grid import Grid, load_grid
from sweep.state.plan import Plan, State, Status

ROOT = Path(__file__).parents[2]
BASE = {
    "weights": "random",
    "image_size": 32,
    "epochs": 3,
    "batch": 50,
    "attack.steps": 1,
    "validation": {"steps": 1, "images": 20},
    "backbone": "mini_convnext",
    "dataset": "fake",
    "epsilon_g": "2/255",
}
SLURM = {
    "timeout_min": 20,
    "slurm_partition": "main",
    "cpus_per_task": 1,
    "mem_gb": 1.5,
    "slurm_signal_delay_s": 30,
}


@dataclass
class Sweep:
    """One grid, one profile and one store, used in this process as the command line does."""

    folder: Path
    bed: Bed
    name: str = "tiny"

    @property
    def store(self) -> Store:
        return Store(self.folder / "root")

    @property
    def sweep(self) -> SweepDir:
        return self.store.sweep(self.name)

    @property
    def grid_file(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def profile_file(self) -> Path:
        return self.folder / "profile.yaml"

    @property
    def grid(self) -> Grid:
        return load_grid(self.grid_file)

    @property
    def profile(self) -> Profile:
        return read_profile(self.profile_file)

    def write_grid(
        self, *, seeds: int = 1, include: list[Any] | None = None, steps: int = 1, **base: Any
    ) -> None:
        """`seeds` runs under the schedule `fix`, and those of `include`; steps: of evaluation."""
        text: dict[str, Any] = {
            "name": self.name,
            "base": BASE | base,
            "grid": {"schedule": ["fix"]},
            "seeds": list(range(seeds)),
            "evals": [{"epsilons": "0..2/255", "steps": steps, "images": 20}],
        }
        if include:
            text["include"] = include
        self.grid_file.write_text(yaml.safe_dump(text))

    def write_profile(self, slurm: dict[str, Any] | None = None, **fields: Any) -> None:
        """The profile of the tests, with changes."""
        text = {
            "executor": "slurm",
            "tracking": "none",
            "heartbeat_s": 0.5,
            "stale_s": 10.0,
            "slurm": SLURM | (slurm or {}),
            **fields,
        }
        self.profile_file.write_text(yaml.safe_dump(text))

    def launch(self, **options: Any) -> str:
        """`sweep launch`; returns what it prints."""
        return self._said(launcher.launch, **options)

    def retry(self, **options: Any) -> str:
        """`sweep retry`; returns what it prints."""
        return self._said(launcher.retry, **options)

    def _said(self, act: Callable[..., object], **options: Any) -> str:
        console = Console(file=io.StringIO(), width=200)
        act(self.grid, self.store, self.profile, console=console, **options)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return text

    def command(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """`sweep ...` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "sweep.cli", *arguments, "--root", str(self.store.root)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )

    def look(self) -> Plan:
        return launcher.look(self.grid, self.store)

    def states(self) -> dict[str, int]:
        """How many runs are in which state."""
        return {str(state): n for state, n in self.look().counts.items()}

    def only(self) -> Status:
        """The status of the only run."""
        (status,) = self.look().statuses
        return status

    @property
    def run(self) -> RunDir:
        """The folder of the first run."""
        return self.store.run(self.grid.runs[0].id)

    @property
    def holder(self) -> Holder:
        found = find_holder(self.run)
        assert found
        return found

    def epochs(self) -> int:
        """Finished epochs of the first run."""
        return len(read_jsonl(self.run.metrics))

    def trained(self, epochs: int) -> None:
        """Wait until the first run has finished so many epochs."""
        until(lambda: self.epochs() >= epochs)

    def done(self) -> None:
        """Wait until every run is done."""
        until(lambda: self.states() == {"done": len(self.grid.runs)})

    def over(self) -> None:
        """Wait until Slurm has no job of ours any more."""
        until(lambda: not self.bed.run("squeue", "-h"))

    def outcomes(self) -> list[str]:
        """How the attempts at the first run ended, in order."""
        return [row["outcome"] for row in read_jsonl(self.run.attempts)]

    def submissions(self) -> list[dict[str, Any]]:
        return read_jsonl(self.sweep.submissions)

    def job(self) -> str:
        """The id of the job that has the first run."""
        return str(self.look().statuses[0].job)

    def kill(self, sig: signal.Signals) -> int:
        """Signal the process that holds the first run, as it says; returns its pid."""
        pid = int(self.holder.info["pid"])
        os.kill(pid, sig)
        return pid


def numbers(run: RunDir) -> list[Any]:
    """What a run measured, without its timings."""
    timed = {"seconds", "images_per_s"}
    rows = [{k: v for k, v in row.items() if k not in timed} for row in read_jsonl(run.metrics)]
    return [
        *rows,
        *(json.loads(f.read_text())["rows"] for f in sorted(run.path.glob("evals/*.json"))),
    ]


__all__ = ["ROOT", "State", "Sweep", "numbers"]

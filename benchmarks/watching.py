"""What it costs to watch runs: the share of a core that each command takes while it waits.

    python benchmarks/watching.py [--runs 320 1440 10080] [--seconds 60] [--out PAGE.md]

Stores are those of benchmarks/status.py: a quarter of the runs each done, running, failed and
waiting in a Slurm array, whose squeue and sacct are stand-ins. Each command runs alone, draws as on
a terminal, and is measured, with the commands it starts, after the first seconds. In place of
workers, `launch` and `tune` watch processes that sleep. For `report --serve` see large_report.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import status
from report import RESULTS, Report
from rich.console import Console

from core.store.folders import Store
from core.store.json_files import write_json
from sweep.grid import Grid, load_grid
from sweep.state import pending
from sweep.state.pending import Pending
from sweep.submit import backends, watcher
from sweep.submit.backend import Crew
from sweep.tune import session
from sweep.worker.sharing import share as share_runs

LIMIT = 0.01
FIRST_S = 15.0
"""Seconds until the share is measured: the start of Python and the first look are not watching."""
SEARCHES, TRIALS = 24, 20


class Sleeper:
    """A worker that never ends."""

    paths = SimpleNamespace(result_pickle=Path("/nothing"))
    job_id, num_tasks = "1", 1

    def done(self) -> bool:
        return False


def crew(manifest: Path, workers: int = 2) -> Crew:
    jobs: list[Any] = [Sleeper() for _ in range(workers)]
    return Crew(jobs, lambda number: jobs[number], manifest)


def launched(loaded: Grid, store: Store) -> None:
    """What `sweep launch` does once its local workers have started."""
    manifest = store.sweep(loaded.name).path / "submission-0001.jsonl"
    watcher.wait(crew(manifest), loaded.runs, store, _terminal())


def tuned(loaded: Grid, store: Store) -> None:
    """What `sweep tune` does once its local workers have started."""
    wanted = session.searches(loaded, store)
    session._attend(crew(store.root), wanted, loaded, _terminal())


def idle(loaded: Grid, store: Store) -> None:
    """What `sweep work` does while other processes and jobs have all runs that are left."""
    sweep = store.sweep(loaded.name)

    def promises() -> Mapping[str, Pending]:
        return backends.states(pending.promises(sweep))

    share_runs(loaded.runs, store, lambda _: "skipped", promises=promises, idle=1e6)


def _terminal() -> Console:
    return Console(file=open(os.devnull, "w"), force_terminal=True, width=80, height=40)


def searches(folder: Path) -> tuple[Grid, Store]:
    """A grid with searches whose first half of trials are finished, and its store."""
    data = {
        "name": "tuned",
        "base": {"epochs": 50, "backbone": "mini_convnext", "weights": "random"},
        "grid": {"dataset": [f"/data/{i}" for i in range(SEARCHES)]},
        "tune": {"trials": TRIALS, "space": {"optim.lr": [1e-6, 1e-1]}},
    }
    path = folder / "tuned.yaml"
    path.write_text(json.dumps(data))  # JSON is YAML
    loaded, store = load_grid(path), Store(folder / "root")
    for one in session.searches(loaded, store):
        for number in range(TRIALS // 2):
            trial = one.trial_dir(number).path
            status.begin(trial, "failed", [])
            ended = {"state": "completed", "reason": None, "value": 0.5, "params": {"lr": 0.1}}
            write_json(trial / "trial.json", ended | {"epochs": 50, "images": 1000})
    return loaded, store


@contextmanager
def forked(act: Callable[[], None]) -> Iterator[int]:
    """A process that does `act`; its id."""
    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    assert process.pid
    try:
        yield process.pid
    finally:
        process.kill()
        process.join()


@contextmanager
def started(command: list[str], variables: dict[str, str]) -> Iterator[int]:
    """A process with this command; its id."""
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def share(pid: int, seconds: float) -> float:
    """The share of a core that a process and its children take. Exits if it has ended."""
    time.sleep(FIRST_S)
    before, begun = _cpu(pid), time.perf_counter()
    time.sleep(seconds)
    return (_cpu(pid) - before) / (time.perf_counter() - begun)


def _cpu(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended. Exits if it has ended."""
    with suppress(FileNotFoundError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state != "Z":
            return sum(map(int, fields[10:14])) / os.sysconf("SC_CLK_TCK")
    sys.exit("a command ended while it was to be measured")


def measured(folder: Path, runs: int, seconds: float) -> Iterator[tuple[str, float]]:
    """(command, share of a core) for a store of `runs` runs."""
    loaded, store = status.make(folder, runs)
    tools = status.scheduler(folder, len(loaded.runs))
    path = {"PATH": f"{tools}:{os.environ['PATH']}", "EPSWEEP_STALE_S": "100000"}
    variables = status.environ(folder) | path | {"FORCE_COLOR": "1", "COLUMNS": "80"}
    os.environ |= path
    with forked(partial(launched, loaded, store)) as pid:
        yield "launch, local", share(pid, seconds)
    command = [*status.SWEEP, "status", loaded.path, "--root", str(store.root), "--watch"]
    with started(command, variables) as pid:
        yield "status --watch, Slurm", share(pid, seconds)
    with forked(partial(idle, loaded, store)) as pid:
        yield "work, idle", share(pid, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[320, 1440, 10080])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "watching.md")
    options = parser.parse_args()
    page = Report("What watching costs", __doc__.partition("\n\n")[2].strip())
    page.section("Shares of a core", "command", "runs", "share of a core (%)")
    os.environ["EPSWEEP_STALE_S"] = "100000"
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as name:
            for what, found in measured(Path(name), runs, options.seconds):
                page.row(what, runs, 100 * found)
                page.gate(f"{what}, {runs} runs: share of a core", found, LIMIT)
    with tempfile.TemporaryDirectory() as name:
        with forked(partial(tuned, *searches(Path(name)))) as pid:
            found = share(pid, options.seconds)
        what = f"tune, {SEARCHES} searches of {TRIALS} trials"
        page.row(what, SEARCHES * TRIALS, 100 * found)
        page.gate(f"{what}: share of a core", found, LIMIT)
    held = page.close()
    page.write(options.out)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

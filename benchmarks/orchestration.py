"""What orchestrating costs, from a grid file to runs in a queue and back, beside other tools.

    python benchmarks/orchestration.py [--peers FOLDER] [--out FILE.md] [--json FILE]

Launches go to the real Slurm of the test bed, whose partition is down, so that jobs queue up and
none starts. Times are of whole processes, start of python included, the best of three. `--peers`
makes an environment there for dora-search and hydra-submitit-launcher, from PyPI (one pass each);
what cannot be installed is skipped, with a line that says so.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import plan
import status
from storm import ROOT, origin

from core.rundir import Store
from slurm.testbed import Bed
from sweep import attempt

SIZES = (120, 1440)
PASSES = 3
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
SUBMITIT = """
import sys, submitit
executor = submitit.AutoExecutor(sys.argv[1], cluster="slurm")
executor.update_parameters(timeout_min=20, slurm_partition="main", gpus_per_node=1, mem_gb=1)
executor.map_array(int, range(int(sys.argv[2])))
"""
DORA = {
    "mini/__init__.py": "",
    "mini/train.py": """
import argparse
from pathlib import Path
from dora import argparse_main
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
@argparse_main(dir="outputs", parser=parser, use_underscore=True)
def main():
    pass
if __name__ == "__main__":
    main()
""",
    "mini/grids/__init__.py": "",
    "mini/grids/many.py": """
import os
from dora import Explorer
@Explorer
def explorer(launcher):
    launcher.slurm_(partition="main", gpus=1, cpus_per_gpu=1, mem_per_gpu=1, time=20)
    with launcher.job_array():
        for seed in range(int(os.environ["RUNS"])):
            launcher({"seed": seed})
""",
}
HYDRA = """
import hydra
@hydra.main(version_base=None)
def main(config):
    pass
main()
"""


@dataclass(frozen=True)
class Row:
    """One figure, and the goal it has to meet."""

    what: str
    runs: int
    seconds: float | None
    note: str = ""
    goal: str = ""
    cpu: float | None = None
    """CPU seconds, where they were taken: what a busy machine changes least."""


def planning() -> Iterator[Row]:
    for runs, least, spent in plan.costs():
        goal = "< 0.3 s" if runs < 10_000 else "< 5 s"
        yield Row("plan with ids", runs, None, f"floor {least:.3f} s", goal, spent)


def statuses() -> Iterator[Row]:
    for runs, goal in ((1440, "< 1 s, < 200 MB, <= 2 calls"), (10_000, "< 5 s")):
        seen = status.cost(runs)
        note = f"{seen.memory:.0f} MB, {seen.calls} scheduler calls, floor {seen.floor:.2f} s"
        yield Row("status", seen.runs, seen.wall, note, goal, seen.cpu)


class Queue:
    """A bed that takes jobs and starts none, and counts what it is asked."""

    def __init__(self, bed: Bed, folder: Path) -> None:
        self.bed, self.folder = bed, folder
        self.calls = folder / "calls"
        (folder / "tools").mkdir()
        for tool in ("sbatch", "squeue", "sacct", "scontrol"):
            script = folder / "tools" / tool
            script.write_text(
                f'#!/bin/sh\necho {tool} >> {self.calls}\nPATH="$BED_PATH" exec {tool} "$@"\n'
            )
            script.chmod(0o755)
        bed.run("scontrol", "update", "PartitionName=main", "State=DOWN")

    def environ(self, **more: str) -> dict[str, str]:
        env = os.environ | self.bed.env()
        tools = {"BED_PATH": env["PATH"], "PATH": f"{self.folder / 'tools'}:{env['PATH']}"}
        return env | tools | {"PYTHONPATH": str(ROOT)} | more

    def empty(self) -> None:
        self.bed.run("scancel", "--user", getpass.getuser())
        self.calls.write_text("")

    def count(self, tool: str) -> int:
        return self.calls.read_text().split().count(tool)

    @property
    def queued(self) -> int:
        return len(self.bed.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i").split())

    def measure(
        self, what: str, runs: int, command: Callable[[Path], list[str]], goal: str = "",
        passes: int = PASSES, **environ: str,
    ) -> Row:  # fmt: skip
        """Launch into a new folder, `passes` times. Raises ValueError where jobs are missing."""
        best = (float("inf"), 0.0)
        for _ in range(passes):
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                folder = Path(name)
                line = command(folder)
                before = {*folder.rglob("*")}
                self.empty()
                best = min(best, _timed(line, self.environ(**environ), folder))
                if self.queued != runs:
                    raise ValueError(f"{what}: {self.queued} of {runs} jobs are in the queue")
                made = [p for p in folder.rglob("*") if p.is_file() and p not in before]
        code = sum("code" in path.parts or ".git" in path.parts for path in made)
        files = f"{len(made) - code} files" + (f" and a copy of the code ({code})" if code else "")
        calls = f"{self.count('sbatch')} sbatch, {self.count('squeue')} squeue"
        note = f"{calls}, {self.count('scontrol')} scontrol; {files}"
        return Row(what, runs, best[0], note, goal, best[1])


def _timed(line: list[str], environ: dict[str, str], folder: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of a process and its children. Raises ValueError with its last line."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(line, env=environ, cwd=folder, stdout=said, stderr=said)
        _, ended, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(ended)
        if process.returncode:
            said.seek(0)
            raise ValueError(f"{line[-1]}: {said.read().decode().strip().splitlines()[-1:]}")
    return wall, used.ru_utime + used.ru_stime


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
    line = [sys.executable, "-c", SUBMITIT]
    for runs in SIZES:
        yield queue.measure(
            "plain submitit map_array",
            runs,
            lambda folder, n=runs: [*line, str(folder / "logs"), str(n)],  # type: ignore[misc]
        )


def peers(queue: Queue, home: Path) -> Iterator[Row]:
    """dora-search and hydra-submitit-launcher, in an environment of their own."""
    problem = _install(home)
    if problem:
        yield Row(f"dora-search, hydra-submitit-launcher: skipped ({problem})", 0, None)
        return
    python = str(home / "bin" / "python")

    def dora(folder: Path) -> list[str]:
        for name, text in DORA.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for command in (["init", "-q"], ["add", "."], [*COMMIT, "-q", "-m", "mini"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
        return [python, "-m", "dora", "-P", "mini", "grid", "many", "--no_monitoring"]

    for runs in SIZES:
        yield _tried(lambda n=runs: queue.measure("dora grid", n, dora, passes=1, RUNS=str(n)))  # type: ignore[misc]
    for runs in SIZES:
        yield _tried(lambda n=runs: _hydra(queue, python, n))  # type: ignore[misc]


COMMIT = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit")


def _tried(work: Callable[[], Row]) -> Row:
    """A peer that does not run here is one honest line."""
    try:
        return work()
    except (ValueError, OSError, subprocess.SubprocessError, TimeoutError) as error:
        return Row(f"skipped: {str(error)[:200]}", 0, None)


def _hydra(queue: Queue, python: str, runs: int) -> Row:
    """Until its jobs are in the queue: it stays until they have ended, and is told to stop here."""
    options = {"partition": "main", "gpus_per_node": 1, "mem_gb": 1, "timeout_min": 20}
    line = [python, "app.py", "-m", "hydra/launcher=submitit_slurm", f"+seed=range({runs})"]
    line += [f"hydra.launcher.{key}={value}" for key, value in options.items()]
    with tempfile.TemporaryDirectory(dir=queue.folder) as name:
        folder = Path(name)
        (folder / "app.py").write_text(HYDRA)
        queue.empty()
        started = time.perf_counter()
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(
                line, env=queue.environ(), cwd=folder, stdout=said, stderr=said
            )
        while queue.queued < runs:
            if process.poll() is not None or time.perf_counter() - started > 400:
                process.kill()
                told = (folder / "said").read_text().strip().splitlines()[-1:]
                raise ValueError(f"hydra: {queue.queued} of {runs} jobs queued; {told}")
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        process.kill()
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = -9
        files = sum(p.is_file() for p in folder.rglob("*")) - 2
    note = f"{queue.count('sbatch')} sbatch; {files} files; does not return before the jobs end"
    cpu = used.ru_utime + used.ru_stime
    return Row("hydra -m, submitit launcher", runs, seconds, note, cpu=cpu)


def _install(home: Path) -> str | None:
    """Make the environment where it is not there; why it cannot be made, None where it can.
    torch, which dora imports, is this environment's own."""
    if (home / "ready").exists():
        return None
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
    light = ("omegaconf", "retrying", "submitit", "treetable", "hydra-core")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([*pip, "hydra-submitit-launcher", *light], check=True)
        subprocess.run([*pip, "--no-deps", "dora-search"], check=True)
        site = subprocess.run(
            [pip[0], "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except subprocess.CalledProcessError as error:
        return f"not installed, exit code {error.returncode}"
    Path(site, "torch_of_epsweep.pth").write_text(sysconfig.get_path("purelib"))
    (home / "ready").touch()
    return None


def overheads() -> Iterator[Row]:
    yield _nothing()
    yield _finished()


def _nothing(runs: int = 50) -> Row:
    """What an attempt costs whose work is nothing: claim, heartbeat, log, word of its end."""
    times = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(runs):
            started = time.perf_counter()
            claim = attempt.claim_for(Store(Path(name)).run(f"run-{number}"))
            if claim is None or attempt.conduct(claim, dict, "nothing", None) != "done":
                raise ValueError("the attempt is not done")
            times.append(time.perf_counter() - started)
    note = "attempt.conduct with no work: claim, heartbeat, log, word of its end; the median"
    return Row("a run whose work is nothing", runs, sorted(times)[runs // 2], note, "< 0.05 s each")


def _finished(runs: int = 21) -> Row:
    """What a local worker spends on a run that is done but for its result: data, model, and the
    finished checkpoint are read, nothing is computed, and the result is written."""
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
    return Row("a run done but for its result", runs, best, note)


def _launched(folder: Path) -> Iterator[Path]:
    """Launch on this machine; the result of every run."""
    subprocess.run(
        _launch(folder), env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
    )
    return (folder / "root" / "runs").glob("*/result.json")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(rows: list[Row]) -> str:
    """Markdown, with machine and commit."""
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

    take(statuses())  # first: a process's peak memory counts that of the one it was forked from
    take(planning())
    with tempfile.TemporaryDirectory() as name, Bed(acct="none", max_array_size=2001) as bed:
        queue = Queue(bed, Path(name))
        take(launches(queue))
        if options.peers:
            take(peers(queue, options.peers.absolute()))
    take(overheads())
    if options.out:
        options.out.write_text(table(rows))
    if options.json:
        about = {"origin": origin(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()

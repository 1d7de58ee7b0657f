"""Launches with other tools: submitit alone, dora-search, and Hydra's submitit launcher."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from queueing import Queue, Row

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


def submitit(queue: Queue, sizes: Sequence[int]) -> Iterator[Row]:
    """Launches with submitit alone, which `sweep launch` uses."""
    line = [sys.executable, "-c", SUBMITIT]
    for runs in sizes:
        yield queue.measure(
            "plain submitit map_array",
            runs,
            lambda folder, n=runs: [*line, str(folder / "logs"), str(n)],  # type: ignore[misc]
        )


def others(queue: Queue, home: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """Launches with dora-search and hydra-submitit-launcher, in a separate environment."""
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

    for runs in sizes:
        yield _tried(lambda n=runs: queue.measure("dora grid", n, dora, passes=1, RUNS=str(n)))  # type: ignore[misc]
    for runs in sizes:
        yield _tried(lambda n=runs: _hydra(queue, python, n))  # type: ignore[misc]


COMMIT = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit")


def _tried(work: Callable[[], Row]) -> Row:
    """The row of a measurement; a row that says so if the tool does not work here."""
    try:
        return work()
    except (ValueError, OSError, subprocess.SubprocessError, TimeoutError) as error:
        return Row(f"skipped: {str(error)[:200]}", 0, None)


def _hydra(queue: Queue, python: str, runs: int) -> Row:
    """Measure until all jobs are queued; then kill Hydra, which would wait for them to end."""
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
    """Create the environment of other tools unless it exists; returns why that failed, or None.
    It uses this environment's torch, which dora imports."""
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

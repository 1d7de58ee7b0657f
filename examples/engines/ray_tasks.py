"""Workers of a sweep as Ray tasks: N of them, by default one per GPU of the Ray cluster.

    python ray_tasks.py GRID [--workers N] [--gpus 1]

The store must be on a file system that the nodes of the cluster share. If a node is lost, its task
is restarted, and the run continues from its last epoch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import ray


@ray.remote(max_retries=3, retry_exceptions=False)
def work(command: list[str], environment: dict[str, str]) -> int:
    """One worker, in a separate process, since Ray needs its own signal handlers."""
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--gpus", type=float, default=1.0, help="GPUs per worker")
    asked = parser.parse_args()
    ray.init()
    there = ray.cluster_resources().get("GPU" if asked.gpus else "CPU", 0)
    count = asked.workers or max(1, int(there // (asked.gpus or 1)))
    sweep = str(Path(sys.executable).with_name("sweep"))
    command = [sweep, "work", str(asked.grid.resolve()), "--idle", "60"]
    environment = {"EPSWEEP_ROOT": str(Path(os.environ.get("EPSWEEP_ROOT", "outputs")).resolve())}
    sized = work.options(num_gpus=asked.gpus, num_cpus=1)
    codes = ray.get([sized.remote(command, environment) for _ in range(count)])
    print(f"{len(codes)} workers ended, exit codes {sorted(set(codes))}")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())

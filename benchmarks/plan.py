"""What planning costs: a grid file to runs with ids, against the least any tool must do for it.

The floor is itertools.product, a merge of two dicts and one SHA-256 of JSON per combination; it
checks nothing. Both are CPU seconds of this process, the best of several passes.

    python benchmarks/plan.py
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sweep.grid import load_grid

BASE = {"epochs": 50, "batch": 128, "optim.lr": 1e-4, "optim.weight_decay": 1e-2}
SCHEDULES = ["fix", "sched", "uniform", "auto", {"kind": "two_hinge", "T1": 5, "T2": 25}]


def axes(backbones: int, datasets: int, strengths: int, schedules: int) -> dict[str, list[Any]]:
    """Axes of a grid, every value valid, by how many values each has."""
    names = [f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")]
    names += [f"resnet{n}" for n in (18, 26, 34, 50, 101, 152)]
    names += [f"convnext_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "small")]
    names += ["vit", "swin", "cnx", "r50"]
    return {
        "backbone": names[-backbones:],
        "dataset": [f"/data/{i}" for i in range(datasets)],
        "epsilon_g": [f"{i + 1}/255" for i in range(strengths)],
        "schedule": SCHEDULES[:schedules],
    }


def floor(product: dict[str, list[Any]]) -> int:
    """Distinct hashes of every combination."""
    keys = list(product)
    ids = set()
    for values in itertools.product(*product.values()):
        config = {**BASE, **dict(zip(keys, values, strict=True))}
        ids.add(hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16])
    return len(ids)


def ours(path: Path) -> int:
    """Distinct ids of the runs of a grid file."""
    return len({run.id for run in load_grid(path).runs})


def cpu_seconds(work: Callable[[], int], runs: int, passes: int) -> float:
    """CPU seconds of the fastest pass. Raises ValueError if a pass loses a run."""
    best = float("inf")
    for _ in range(passes):
        start = time.process_time()
        count = work()
        best = min(best, time.process_time() - start)
        if count != runs:
            raise ValueError(f"expected {runs} runs, got {count}")
    return best


class Cost(NamedTuple):
    """CPU seconds to plan so many runs, and the least any tool needs."""

    runs: int
    least: float
    spent: float


def costs() -> Iterator[Cost]:
    """Of 1,440 and of 100,000 runs."""
    for shape, seeds, passes in (((8, 5, 4, 3), 3, 7), ((20, 10, 10, 5), 10, 3)):
        product = axes(*shape)
        data = {"name": "plan", "base": BASE, "grid": product, "seeds": list(range(seeds))}
        every = {**product, "seed": list(range(seeds))}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "plan.yaml")
            path.write_text(json.dumps(data))  # JSON is YAML
            runs = floor(every)
            least = cpu_seconds(partial(floor, every), runs, passes)
            yield Cost(runs, least, cpu_seconds(partial(ours, path), runs, passes))


def main() -> None:
    print(f"{'runs':>8}  {'floor':>8}  {'load + ids':>10}  {'ratio':>5}  {'per run':>8}")
    for runs, least, spent in costs():
        print(
            f"{runs:>8,}  {least:>6.3f} s  {spent:>8.3f} s  {spent / least:>4.1f}x  "
            f"{spent / runs * 1e6:>5.1f} us"
        )


if __name__ == "__main__":
    main()

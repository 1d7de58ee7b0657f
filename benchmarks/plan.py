"""Cost of planning: from a grid file to runs with ids, compared with the least that any tool must
do, and of the whole command `sweep plan`.

The floor is itertools.product, a merge of two dicts and a SHA-256 of JSON per combination, without
checks. Both are CPU seconds of this process, the best of several passes. The command is measured
including the start of Python, with its peak memory, the best of three; its grids have known
datasets and folders, a schedule with a custom name, and two evaluations.

    python benchmarks/plan.py [--out benchmarks/results/plan.md]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import status
from storm import origin

from core.config.datasets import entries
from sweep.grid import load_grid

BASE = {"epochs": 50, "batch": 128, "optim.lr": 1e-4, "optim.weight_decay": 1e-2}
SCHEDULES = ["fix", "sched", "uniform", "auto", {"kind": "two_hinge", "T1": 5, "T2": 25}]


def axes(backbones: int, datasets: int, strengths: int, schedules: int) -> dict[str, list[Any]]:
    """Axes of a grid with as many values as the arguments say, all valid."""
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
    """The number of distinct hashes of all combinations."""
    keys = list(product)
    ids = set()
    for values in itertools.product(*product.values()):
        config = {**BASE, **dict(zip(keys, values, strict=True))}
        ids.add(hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16])
    return len(ids)


def ours(path: Path) -> int:
    """The number of distinct ids of the runs of a grid file."""
    return len({run.id for run in load_grid(path).runs})


def cpu_seconds(work: Callable[[], int], runs: int, passes: int) -> float:
    """CPU seconds of the fastest pass. Raises ValueError unless each returns `runs`."""
    best = float("inf")
    for _ in range(passes):
        start = time.process_time()
        count = work()
        best = min(best, time.process_time() - start)
        if count != runs:
            raise ValueError(f"expected {runs} runs, got {count}")
    return best


class Cost(NamedTuple):
    """CPU seconds to plan `runs` runs: the floor's (`least`) and ours (`spent`)."""

    runs: int
    least: float
    spent: float


def costs() -> Iterator[Cost]:
    """Costs of planning 1,440 and 100,000 runs."""
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


class Command(NamedTuple):
    """Cost of one `sweep plan`: CPU seconds and MB."""

    what: str
    runs: int
    cpu: float
    memory: float
    goal: str


GOALS = {(1_440, ""): "< 0.5 s", (100_000, ""): "< 6 s, < 400 MB"}
GOALS |= {(100_000, "--json"): "< 9 s, < 600 MB"}


def commands() -> Iterator[Command]:
    """Costs of `sweep plan` and `sweep plan --json` for increasing numbers of runs."""
    with tempfile.TemporaryDirectory() as name:
        environ = status.environ(Path(name))
        for runs, seeds in ((1_440, 0), (10_000, 1), (30_000, 3), (100_000, 10)):
            grid = _many(Path(name), seeds) if seeds else "guide"
            for option in ("", "--json"):
                words = [grid, "--root", f"{name}/root", *filter(None, [option])]
                command = [*status.SWEEP, "plan", *words]
                _, cpu, memory = status.measure(command, environ)
                goal = GOALS.get((runs, option), "")
                yield Command(f"plan {option}".strip(), runs, cpu, memory, goal)


def _many(folder: Path, seeds: int) -> str:
    product = axes(20, 10, 10, 5)
    product["dataset"][:5] = list(entries())[:5]
    product["schedule"][-1] = {"name": "late", **product["schedule"][-1]}
    data = {"name": "many", "base": BASE, "grid": product, "seeds": list(range(seeds))}
    path = folder / f"many{seeds}.yaml"
    path.write_text(json.dumps(data | {"evals": [{"mode": "fast"}, {"steps": 50}]}))
    return str(path)


def report() -> Iterator[str]:
    """Yields the lines of the page as they are measured."""
    yield from ("# What planning costs", "", f"{origin()}, {time.strftime('%Y-%m-%d')}")
    yield f"Load {os.getloadavg()[0]:.1f} at the beginning; seconds are of CPU."
    yield from ("", "| what | runs | CPU | per run | peak | goal |", "|:--|--:|--:|--:|--:|:--|")
    for what, runs, cpu, memory, goal in commands():
        each = f"{cpu / runs * 1e6:.0f} us"
        yield f"| sweep {what} | {runs:,} | {cpu:.2f} s | {each} | {memory:.0f} MB | {goal} |"
    yield from ("", "| load + ids | floor | CPU | ratio | per run |", "|--:|--:|--:|--:|--:|")
    for runs, least, spent in costs():
        ratio, each = f"{spent / least:.1f}x", f"{spent / runs * 1e6:.1f} us"
        yield f"| {runs:,} | {least:.3f} s | {spent:.3f} s | {ratio} | {each} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the page to this file too")
    out = parser.parse_args().out
    lines = []
    for line in report():
        print(line, flush=True)
        lines.append(line)
    if out:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

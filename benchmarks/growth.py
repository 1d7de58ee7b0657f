"""How the cost of analysis grows with the number of runs: reading, index, aggregation, report page.

    python benchmarks/growth.py [--runs 360 720 1440] [--rows 25000 50000 100000]

Makes stores of invented run folders in the real format (50 epochs, 17 strengths, 1,000 images each)
in a temporary folder. Times are CPU and wall seconds; the last column is the cost per item over
that of the first line, so about 1 means linear growth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import Results
from analysis.cells import group_cells
from analysis.frames import VALUES
from analysis.report import Digests, write
from core.config import RobustAccuracy, RunConfig
from core.store.folders import Store

EVALUATION = RobustAccuracy()
IMAGES = 1000
BACKBONES = ("vit", "swin", "cnx", "r50", "clipvit", "clipcnx")
DATASETS = ("aircraft", "caltech256", "cars", "cub", "dogs")


def configs() -> Iterator[RunConfig]:
    """Configs in grid order, endlessly: for each seed, all backbones, datasets, strengths and
    schedules."""
    for seed in itertools.count():
        for backbone, dataset, eps, schedule in itertools.product(
            BACKBONES, DATASETS, ("4/255", "8/255"), ("fix", "sched")
        ):
            fields = {"backbone": backbone, "dataset": dataset, "epsilon_g": eps, "seed": seed}
            yield RunConfig.parse({**fields, "schedule": schedule})


def make(root: Path, count: int) -> list[dict[str, Any]]:
    """Write a finished sweep of `count` runs; returns its manifest rows."""
    generator = np.random.default_rng(0)
    rows = []
    for run in itertools.islice(configs(), count):
        finish(root, run, generator)
        config = run.to_dict()
        ids = [EVALUATION.id]
        rows.append({"id": run.id, "setting": run.setting, "config": config, "evals": ids})
    return rows


def finish(root: Path, run: RunConfig, generator: np.random.Generator) -> None:
    folder = Store.at(root).run(run.id)
    (folder.path / "evals").mkdir(parents=True)
    critical = generator.integers(0, len(EVALUATION.epsilons) + 1, IMAGES).astype(np.int16)
    index = np.arange(IMAGES, dtype=np.int32)
    np.savez(folder.eval_flags(EVALUATION.id), critical=critical, index=index, label=index % 100)
    folder.eval_json(EVALUATION.id).write_text(json.dumps(evaluation(critical)))
    folder.metrics.write_text("".join(json.dumps(epoch(i)) + "\n" for i in range(run.epochs)))
    ended = {"attempt": 1, "outcome": "done", "started": "2026-01-01T00:00:00+00:00"}
    folder.attempts.write_text(json.dumps({**ended, "ended": "2026-01-01T00:20:00+00:00"}) + "\n")
    folder.env.write_text(json.dumps({"commit": "0123abc", "host": "node", "versions": {}}))
    folder.log.write_text("epoch 49 of 50: all well\n" * 20)
    result = {"id": run.id, "setting": run.setting, "epochs": run.epochs, "delay": 3}
    result |= {"evals": [EVALUATION.id], "finished": "", "attempts": 1, "seconds": 1200.0}
    folder.result.write_text(json.dumps(result))


def evaluation(critical: np.ndarray) -> dict[str, Any]:
    rows = [
        {
            "attack": EVALUATION.attack,
            "norm": EVALUATION.norm,
            "epsilon": str(strength),
            "n": IMAGES,
            "correct": int((critical > i).sum()),
        }
        for i, strength in enumerate(EVALUATION.epsilons)
    ]
    about = {"id": EVALUATION.id, "config": EVALUATION.to_dict(), "rows": rows, "n": IMAGES}
    cost = {"forwards": 0, "backwards": 0, "seconds": 60.0, "zero_gradient_images": 0}
    return about | cost | {"split_images": IMAGES, "commit": "0123abc"}


def epoch(number: int) -> dict[str, Any]:
    correct = 20 * number
    counts = {"val_clean_correct": correct, "val_clean_images": IMAGES}
    counts |= {"val_adv_correct": correct // 2, "val_adv_images": IMAGES}
    counts |= {"train_clean_correct": correct, "train_images": 3 * IMAGES}
    floats = {"epsilon": 4 / 255, "lr": 1e-4, "train_loss": 2.5 / (1 + number), "val_loss": 2.0}
    speed = {"seconds": 12.25, "images_per_s": 245.5, "val_epsilon": "4/255"}
    return {"epoch": number} | floats | counts | speed


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """(CPU, wall) seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return time.process_time() - cpu, time.perf_counter() - wall


class Growth:
    """Prints the lines of one measurement, with the cost per item over that of the first line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._first: float | None = None

    def line(self, items: int, spent: tuple[float, float]) -> None:
        self._first = self._first or spent[0] / items
        growth = spent[0] / items / self._first
        print(f"{self._name:<28} {items:>7}  {spent[0]:7.2f} s {spent[1]:7.2f} s  {growth:5.2f}")


EVERYTHING = ("values", "curves", "epochs", "table")


def reading(counts: list[int]) -> None:
    """Measure reading frames with and without an index, and writing the report page."""
    growth = {
        name: Growth(name)
        for name in (
            "values, no index",
            "all frames, no index",
            "values, from the index",
            "all frames, from the index",
            "report page",
        )
    }
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            for name, spent in measured(Path(folder), count):
                growth[name].line(count, spent)
            size = (Path(folder) / "page" / "index.html").stat().st_size
            print(f"{'':>10}index.html: {size / 1e6:.2f} MB")


def measured(root: Path, count: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yields (what, (CPU, wall) seconds) for every measurement on a store of `count` runs."""
    rows = make(root, count)

    def read(names: tuple[str, ...], index: bool) -> None:
        results = Results(root, rows, index=index)
        for name in names:
            getattr(results, name)

    yield "values, no index", timed(lambda: read(("values",), False))
    yield "all frames, no index", timed(lambda: read(EVERYTHING, False))
    time.sleep(2.5)  # the index stores only files that have not changed for 2 s
    read(EVERYTHING, True)
    yield "values, from the index", timed(lambda: read(("values",), True))
    yield "all frames, from the index", timed(lambda: read(EVERYTHING, True))
    page = root / "page"
    yield (
        "report page",
        timed(lambda: write(Digests.of(Results(root, rows)), page, title="benchmark")),
    )


def aggregating(sizes: list[int]) -> None:
    """Measure grouping result rows into cells of ten seeds."""
    growth = Growth("rows into cells")
    for size in sizes:
        frame = made_up(size)
        growth.line(size, min(timed(partial(group_cells, frame)) for _ in range(3)))


def made_up(size: int) -> pd.DataFrame:
    number = np.arange(size)
    cell = number // 10
    names = {"model": [f"m{i % 40}" for i in cell], "dataset": [f"d{i // 40}" for i in cell]}
    metric = np.array(["clean", "adv", "expected"])[cell % 3]
    frame = pd.DataFrame({**names, "metric": metric, "seed": number % 10})
    neutral = {name: "" if kind == "str" else 0 for name, kind in VALUES.types.items()}
    numbers = {"value": 50.0, "n": IMAGES, "split_images": IMAGES, "epsilon_g": 4.0}
    defaults = neutral | numbers | {"state": "done", "setting": "fix"}
    for name, value in defaults.items():
        if name not in frame:
            frame[name] = value
    return VALUES.typed(frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[360, 720, 1440])
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    options = parser.parse_args()
    print(f"{'what':<28} {'items':>7}  {'CPU':>9} {'wall':>9}  growth")
    reading(options.runs)
    aggregating(options.rows)


if __name__ == "__main__":
    main()

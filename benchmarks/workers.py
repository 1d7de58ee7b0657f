"""Cost of many workers sharing one store: claims per second, file-system operations per claim, and
whether every run is done exactly once.

    python benchmarks/workers.py [--runs 10000] [--workers 200] [--root FOLDER]

Each worker is a forked process that does the same as `sweep work` except the run itself: it looks
for a run, claims it (with heartbeat, log and record of the attempt), writes its result and releases
it. Operations are Python's calls to the file system, counted in the workers.
"""

from __future__ import annotations

import argparse
import builtins
import gc
import io
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from core.options import Options
from core.store import source
from core.store.claims import Claim, now
from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep.grid import Run, parse_grid
from sweep.worker import attempt
from sweep.worker.sharing import share

GRID = """
name: workers
base: {{backbone: swin, dataset: cars, epsilon_g: 4/255}}
seeds: [{seeds}]
"""
CALLS = (
    *("stat", "lstat", "open", "listdir", "scandir", "access", "utime", "fsync"),
    *("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link"),
)
"""Functions of module os that are counted; the built-in `open` is counted as `open`, too."""


class Found(NamedTuple):
    """Result of one set of workers."""

    workers: int
    runs: int
    seconds: float
    operations: Counter[str]
    done: list[str]
    missed: int
    """Number of claims that failed because another worker was faster."""
    problems: list[str]

    @property
    def each(self) -> float:
        return sum(self.operations.values()) / self.runs


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the file-system operations of this process inside the context."""
    calls: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **more)

        return call

    before = {name: getattr(os, name) for name in CALLS}
    opened = builtins.open
    for name, function in before.items():
        setattr(os, name, counting(name, function))
    builtins.open = io.open = counting("open", opened)
    try:
        yield calls
    finally:
        for name, function in before.items():
            setattr(os, name, function)
        builtins.open = io.open = opened


def worker(runs: list[Run], root: Path, in_order: bool, gate: Any, results: Any) -> None:
    """The main function of a worker: wait for the others, then share the runs with them."""
    store, done, missed = Store(root), list[str](), 0

    def do(run: Run) -> str:
        nonlocal missed
        claim = attempt.claim_unfinished(store.run(run.id), run.evals, Options())
        if claim is None:
            missed += 1
            return "skipped"
        outcome = attempt.conduct(claim, lambda: _finish(run, claim), run.id, None)
        done.append(run.id)
        return outcome

    gc.freeze()  # otherwise garbage collection would scan the parent's objects after every run
    gate.wait()
    with counted() as operations:
        if in_order:
            for run in runs:
                do(run)
        else:
            share(runs, store, do, root / "parts")
    results.put((done, missed, operations))


def _finish(run: Run, claim: Claim) -> None:
    """Write the files that make a run count as done."""
    folder = claim.run
    for item in run.evals:
        folder.write(folder.eval_flags(item.id), lambda file: file.write(b""))
        row = {"attack": item.name, "norm": "linf", "epsilon": "0", "n": 1, "correct": 1}
        record = {"id": item.id, "config": item.to_dict(), "rows": [row], "n": 1}
        whole = {"split_images": 1, "flags_crc32": zlib.crc32(b"")}
        folder.write_json(folder.eval_json(item.id), record | whole)
    result = {"id": run.id, "evals": [item.id for item in run.evals], "finished": now()}
    folder.write_json(folder.result, result)


def measure(runs: list[Run], workers: int, folder: Path, in_order: bool = False) -> Found:
    """Let `workers` workers share a new store. in_order: each goes through the runs in order."""
    root = Path(tempfile.mkdtemp(dir=folder))
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(workers + 1), context.SimpleQueue()
    processes = [
        context.Process(target=worker, args=(runs, root, in_order, gate, results))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    gate.wait()
    begun = time.perf_counter()
    told = [results.get() for _ in processes]
    seconds = time.perf_counter() - begun
    for process in processes:
        process.join()
    done = [name for part, _, _ in told for name in part]
    operations = sum((calls for _, _, calls in told), Counter[str]())
    missed = sum(count for _, count, _ in told)
    problems = list(_problems(runs, Store(root), done))
    shutil.rmtree(root)
    return Found(workers, len(runs), seconds, operations, done, missed, problems)


def _problems(runs: list[Run], store: Store, done: list[str]) -> Iterator[str]:
    """Runs that were lost or done twice, by the workers' lists and by the records in the store."""
    if twice := [name for name, count in Counter(done).items() if count > 1]:
        yield f"{len(twice)} runs were done twice, such as {twice[0]}"
    if lost := {run.id for run in runs} - {*done}:
        yield f"{len(lost)} runs were lost, such as {min(lost)}"
    for run in runs:
        rows = [row["outcome"] for row in read_jsonl(store.run(run.id).attempts)]
        if rows != ["done"]:
            yield f"{run.id}: attempts {rows}"


def page(found: list[Found], raced: Found, largest: Found, folder: Path) -> str:
    lines = [
        "# Many workers on one store",
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), store on {_kind(folder)}, "
        f"{source.commit()}, {now()[:10]}; load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "What `python benchmarks/workers.py` measures: light processes that do the same as",
        "`sweep work`, except that a run only writes its files. All processes share these cores,",
        "so claims per second are limited by the cores, not by the file system.",
        "",
        "| workers | runs | seconds | claims per second | operations per claim | claims missed |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for one in [*found, largest]:
        lines.append(_row(one))
    lines += [
        "",
        "If every worker instead goes through the list from the start and takes the next free run:",
        "",
        "| workers | runs | seconds | claims per second | operations per claim | claims missed |",
        "|--:|--:|--:|--:|--:|--:|",
        _row(raced),
        "",
        f"Operations per claim, {largest.runs:,} runs and {largest.workers} workers:",
        "",
        ", ".join(
            f"{name} {count / largest.runs:.1f}" for name, count in largest.operations.most_common()
        ),
        "",
        "A worker looks at a run in two operations, unless another one has seen its part of the",
        "grid end (`sweep/worker/parts.py`). With few runs per worker, all of them are in the same",
        "parts. What a claim itself costs does not grow with the number of workers.",
        "",
        *(f"* {line}" for one in [*found, raced, largest] for line in one.problems[:5]),
    ]
    whole = [*found, raced, largest]
    if not any(one.problems for one in whole):
        lines.append(
            "No run was done twice, none was lost: by the workers' lists and by the records."
        )
    return "\n".join(lines) + "\n"


def _row(one: Found) -> str:
    return (
        f"| {one.workers} | {one.runs:,} | {one.seconds:.1f} | {one.runs / one.seconds:.0f} | "
        f"{one.each:.0f} | {one.missed} |"
    )


def _kind(folder: Path) -> str:
    """The type of a folder's file system."""
    best = ("", "?")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if folder.resolve().is_relative_to(place) and len(place) >= len(best[0]):
            best = place, kind
    return best[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    seeds = ", ".join(map(str, range(asked.runs)))
    runs = [*parse_grid(GRID.format(seeds=seeds), Path("workers.yaml")).runs]
    few = runs[: max(1, asked.runs // 10)]
    found = []
    for workers in sorted({1, *(max(1, asked.workers // part) for part in (25, 5, 1))}):
        found.append(measure(few, workers, asked.root))
        print(_row(found[-1]), flush=True)
    raced = measure(few, asked.workers, asked.root, in_order=True)
    largest = measure(runs, asked.workers, asked.root)
    text = page(found, raced, largest, asked.root)
    print(text)
    if asked.out:
        asked.out.write_text(text, "utf-8")
    return 1 if any(one.problems for one in [*found, raced, largest]) else 0


if __name__ == "__main__":
    sys.exit(main())

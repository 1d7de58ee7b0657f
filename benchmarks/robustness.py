"""Expected robustness in modes `exact` and `fast`: cost, and agreement with independent attacks.

A part of benchmarks/engine.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peers
import plain
import tiny
import torch
from report import Report, Work, seconds
from torch import Tensor

from core.attack.apgd import apgd
from core.data import drawn
from core.evaluation import audit, queue

CPU = torch.device("cpu")


@contextmanager
def many_images(images: int) -> Iterator[None]:
    """Draw this many test images of `plane` per class that the small network knows."""
    sizes, before = drawn.SIZES["plane"], drawn.SIZES["plane"]["test"]
    sizes["test"] = images // tiny.CLASSES * drawn.CLASSES["plane"]
    try:
        yield
    finally:
        sizes["test"] = before


def measure(report: Report, images: int) -> None:
    """Costs and agreement on so many images."""
    with many_images(images):
        trained = tiny.train_one()
    net, split, steps, batch = trained.net, trained.test, 10, 128
    grid = [i / 8 * 1.2 / 255 for i in range(9)]
    how: dict[str, Any] = {"steps": steps, "batch": batch, "device": CPU}
    x, y = split.batch(torch.arange(len(split)), CPU)

    def naive() -> None:
        for epsilon in grid[1:]:
            for rows in torch.arange(len(split)).split(batch):
                apgd(net, *split.batch(rows, CPU), epsilon=epsilon, steps=steps)

    def fast(audited: bool = False) -> queue.Search:
        found = queue.search(net, split, grid, mode="fast", **how)
        if audited:
            audit.check(found, net, split, grid, **how)
        return found

    exact, quick = queue.search(net, split, grid, **how), fast()
    checked = audit.check(fast(), net, split, grid, **how)
    work: dict[str, Work] = {
        "naive": naive,
        "exact": lambda: queue.search(net, split, grid, **how),
        "fast": fast,
        "fast with audit": lambda: fast(audited=True),
    }
    spent = seconds(work, 4)
    calls = len(split) * (len(grid) - 1) * (steps + 1)
    robust = exact.correct(len(grid) - 1)
    report.section(
        f"Expected robustness over 9 strengths, APGD-{steps}, {len(split)} images, "
        f"{robust} of them right at the largest, over one attack per image and strength",
        *("mode", "forwards", "gradients", "time"),
    )
    costs = {
        "exact": (exact.forwards, exact.backwards),
        "fast": (quick.forwards, quick.backwards),
        "fast with audit": (quick.forwards + checked.forwards, quick.backwards + checked.backwards),
    }
    for mode, (forwards, backwards) in costs.items():
        gradients = backwards / (calls * steps / (steps + 1))
        report.row(mode, forwards / calls, gradients, spent[mode] / spent["naive"])
    report.gate("exact / naive, forwards", exact.forwards / calls, 0.85)
    report.gate("fast / naive, forwards", quick.forwards / calls, 0.20)
    report.gate("fast / naive, time", spent["fast"] / spent["naive"], 0.25)
    report.gate("fast with audit / naive, time", spent["fast with audit"] / spent["naive"], 0.25)
    agreement(report, trained, x, y, grid, exact, quick)


def agreement(
    report: Report,
    trained: tiny.Trained,
    x: Tensor,
    y: Tensor,
    grid: list[float],
    exact: queue.Search,
    quick: queue.Search,
) -> None:
    """Flags against one independent attack per strength, written a second time, image by image;
    accuracies against pyautoattack's APGD, which begins at random points."""
    report.section(
        f"Accuracy (%) of {len(y)} images",
        "eps x 255",
        "exact",
        "fast",
        "reference",
        "pyautoattack",
    )
    model, widest, pairs = trained.net, 0.0, {"exact": 0, "fast": 0}
    standing = torch.ones(len(y), dtype=torch.bool)
    for level, epsilon in enumerate(grid):
        alone = ~plain.attack(model, x, y, [epsilon] * len(y), 10).fooled
        standing &= alone  # what is broken stays broken
        row = []
        for mode, found in (("exact", exact), ("fast", quick)):
            right = torch.from_numpy(found.critical > level)
            pairs[mode] += int((right != standing).sum())
            row.append(100 * float(right.float().mean()))
        theirs = None
        if epsilon:
            theirs = peers.attack("pyautoattack", model, x, y, epsilon=epsilon, steps=10)
        accuracy: float | str = "-"
        if theirs:
            accuracy = 100 * float((model(theirs()).argmax(1) == y).float().mean())
            widest = max(widest, abs(accuracy - row[0]))
        reference = 100 * float(alone.float().mean())
        cells = (f"{a:.2f}" if isinstance(a, float) else a for a in (*row, reference, accuracy))
        report.row(f"{epsilon * 255:.2f}", *cells)
    total = len(y) * len(grid)
    report.say(f"\nPairs that differ from the reference: {pairs} of {total}.")
    report.gate("exact against the any-iterate reference, pairs that differ", pairs["exact"], 0)
    report.gate("fast against the reference, share of pairs", pairs["fast"] / total, 0.001)
    report.gate("accuracy against pyautoattack, points", widest, 1.0)

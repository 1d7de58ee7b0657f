"""Expected robustness in modes `exact` and `fast`: cost, and agreement with independent attacks.

Part of benchmarks/engine.py.
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
from torch import Tensor, nn

from core.attack.apgd import run_apgd
from core.data import drawn
from core.data.splits import Split
from core.evaluation import audit, queue

CPU = torch.device("cpu")


@contextmanager
def many_images(images: int) -> Iterator[None]:
    """Draw enough test images of `plane` that `images` of them have classes the network knows."""
    sizes, before = drawn.SIZES["plane"], drawn.SIZES["plane"]["test"]
    sizes["test"] = images // tiny.CLASSES * drawn.CLASSES["plane"]
    try:
        yield
    finally:
        sizes["test"] = before


GRID = [i / 8 * 1.2 / 255 for i in range(9)]
HOW: dict[str, Any] = {"steps": 10, "batch": 128, "device": CPU}


def measure(report: Report, few: int, many: int) -> None:
    """Measure costs on few and on many images, since an audit takes about the same number of both,
    and agreement on the few."""
    with many_images(many):
        trained = tiny.train_one()
    net, split = trained.net, trained.test.first(few)
    costs(report, net, trained.test, 2)
    exact, quick = costs(report, net, split, 4)
    calls = len(split) * (len(GRID) - 1) * (HOW["steps"] + 1)
    report.gate("exact / naive, forwards", exact.forwards / calls, 0.85)
    report.gate("fast / naive, forwards", quick.forwards / calls, 0.20)
    x, y = split.batch(torch.arange(len(split)), CPU)
    agreement(report, trained, x, y, GRID, exact, quick)


def costs(
    report: Report, net: nn.Module, split: Split, repetitions: int
) -> tuple[queue.Search, queue.Search]:
    """Measure forwards, gradients and time of each mode; returns the exact and the fast search."""

    def naive() -> None:
        for epsilon in GRID[1:]:
            for rows in torch.arange(len(split)).split(HOW["batch"]):
                x, y = split.batch(rows, CPU)
                run_apgd(net, x, y, epsilon=epsilon, steps=HOW["steps"])

    def fast() -> queue.Search:
        return queue.search(net, split, GRID, mode="fast", **HOW)

    exact, quick = queue.search(net, split, GRID, **HOW), fast()
    checked = audit.check(fast(), net, split, GRID, **HOW)
    work: dict[str, Work] = {
        "naive": naive,
        "exact": lambda: queue.search(net, split, GRID, **HOW),
        "fast": fast,
        "fast with audit": lambda: audit.check(fast(), net, split, GRID, **HOW),
    }
    spent = seconds(work, repetitions)
    steps = len(split) * (len(GRID) - 1) * HOW["steps"]
    calls = steps // HOW["steps"] * (HOW["steps"] + 1)
    report.section(
        f"Expected robustness over 9 strengths, APGD-{HOW['steps']}, {len(split)} images, "
        f"{exact.correct(len(GRID) - 1)} of them right at the largest, {checked.images} of "
        f"{checked.doubtful} audited, over one attack per image and strength",
        *("mode", "forwards", "gradients", "time"),
    )
    spending = {
        "exact": (exact.forwards, exact.backwards),
        "fast": (quick.forwards, quick.backwards),
        "fast with audit": (quick.forwards + checked.forwards, quick.backwards + checked.backwards),
    }
    for mode, (forwards, backwards) in spending.items():
        report.row(mode, forwards / calls, backwards / steps, spent[mode] / spent["naive"])
    images, share = len(split), spent["fast with audit"] / spent["naive"]
    report.gate(f"fast / naive, time, {images} images", spent["fast"] / spent["naive"], 0.25)
    if images > 1000:
        report.gate(f"fast with audit / naive, time, {images} images", share, 0.25)
    return exact, quick


def agreement(
    report: Report,
    trained: tiny.Trained,
    x: Tensor,
    y: Tensor,
    grid: list[float],
    exact: queue.Search,
    quick: queue.Search,
) -> None:
    """Compare flags with a second, image-by-image implementation that makes one independent attack
    per strength, and accuracies with pyautoattack's APGD, which starts at random points."""
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
        alone = plain.attack(model, x, y, [epsilon] * len(y), 10).taken == y
        standing &= alone  # an image broken at a smaller strength stays broken
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

"""GPU-hours of the benchmark of 150 runs, from the speeds that benchmarks/gpu.py measured.

Adds up all runs of the grid, each with its schedule and dataset. Only attacks, training, validation
and evaluation are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from report import Report

from core.config import EvalConfig, RunConfig
from core.config.datasets import entries
from core.training import schedules

GRID = Path(__file__).parents[1] / "grids" / "epsilon_scheduling.yaml"
EXACT_SHARE = 0.3
"""Forwards of an exact evaluation, as a share of one attack per image and strength; the published
accuracies of the sched runs, averaged over 0..16/255, give 0.25."""
GOAL = 40.0
SAME = {"clipvit": "vit", "clipcnx": "cnx"}  # the same networks with other weights

Speeds = Mapping[str, float]


def runs(grid: Mapping[str, Any]) -> list[RunConfig]:
    """The grid's runs, each once."""
    base = {key: value for key, value in grid["base"].items() if "." not in key}
    axes = grid["grid"]
    drawn = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    configs = [RunConfig.parse({**base, **values}) for values in drawn]
    return list({config.id: config for config in configs}.values())


def seconds(config: RunConfig, evals: list[EvalConfig], speeds: Speeds) -> dict[str, float]:
    """Seconds of one run by part. speeds: images per second of steps without ('clean') and with
    attack ('attacked'), and of forward with input gradient in 'bf16' and 'fp32'."""
    images, schedule = entries()[config.dataset].splits, schedules.make(config)
    clean = sum(schedule.alpha(epoch) == 0 for epoch in range(config.epochs))
    attacked = config.epochs - clean
    # Clean accuracy, and an attack on every image to the last step.
    looks = images["val"] * (1 + config.validation.steps + 1)
    judged = sum(1 + (len(e.epsilons) - 1) * e.steps * EXACT_SHARE for e in evals)
    return {
        "training": images["train"] * (clean / speeds["clean"] + attacked / speeds["attacked"]),
        "validation": config.epochs * looks / speeds["bf16"],
        "evaluation": images["test"] * judged / speeds["fp32"],
    }


def extrapolate(report: Report, measured: Mapping[str, Speeds], quick: bool) -> None:
    """Add a table of GPU-hours and their gate to the report."""
    grid = yaml.safe_load(GRID.read_text("utf-8"))
    evals = [EvalConfig.parse(item) for item in grid["evals"]]
    spent: dict[str, float] = {}
    configs = runs(grid)
    for config in configs:
        name = SAME.get(config.backbone, config.backbone)
        speeds = next(iter(measured.values())) if quick else measured.get(name)
        if speeds is None or "attacked" not in speeds:
            report.say(f"\nNo extrapolation: {name} was not measured.")
            return
        for part, value in seconds(config, evals, speeds).items():
            spent[part] = spent.get(part, 0) + value / 3600
    report.section(f"{len(configs)} runs of {GRID.stem}, GPU-hours", "part", "hours")
    for part, value in [*spent.items(), ("all", sum(spent.values()))]:
        report.row(part, f"{value:.1f}")
    report.say(
        "\nThe fastest way of calling each backbone; training and validation in bf16, evaluation "
        f"in fp32 in mode exact, at {EXACT_SHARE:g} of an attack per image and strength."
    )
    if not quick:
        report.gate("GPU-hours of the benchmark", sum(spent.values()), GOAL)

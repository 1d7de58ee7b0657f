"""Runs of the sister benchmark with made-up accuracies in all five measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import analysis_store as made
import numpy as np

from core.config import EvalConfig
from core.store.folders import RunDir, Store

EVALUATIONS = [
    EvalConfig.parse(about)
    for about in (
        {"attack": "autoattack", "epsilons": ["0", "4/255"]},
        {"attack": "autoattack", "norm": "l2", "epsilons": ["0", "2"]},
        {"attack": "autoattack", "norm": "l1", "epsilons": ["0", "75"]},
        {"attack": "corruptions", "severity": 3},
    )
]


def finished(
    root: Path, right: int, evaluations: Sequence[EvalConfig] = EVALUATIONS, **fields: Any
) -> None:
    """A run of 100 images: so many right, of which each norm leaves fewer, and corruptions 5
    fewer."""
    run = made.config(schedule="fix", objective={"kind": "at"}, **fields)
    folder = Store(root).run(run.id)
    for number, evaluation in enumerate(evaluations, start=1):
        if evaluation.attack == "corruptions":
            corrupted(folder, evaluation, right - 5)
            continue
        left = right - 10 * number
        critical = np.repeat([2, 1, 0], [left, right - left, 100 - right])
        made.finish(root, run, evaluation, critical=critical)
    made.rewrite(folder.result, evals=[one.id for one in evaluations])


def corrupted(folder: RunDir, evaluation: EvalConfig, right: int) -> None:
    row = {"attack": "corruptions", "norm": "linf", "epsilon": "0", "type": "snow"}
    made.write_json(
        folder.eval_json(evaluation.id),
        {
            "id": evaluation.id,
            "config": evaluation.to_dict(),
            "rows": [{**row, "n": 100, "correct": right}],
            "n": 100,
            "split_images": 100,
            "forwards": 1,
            "backwards": 0,
            "seconds": 1.0,
            "zero_gradient_images": 0,
            "commit": "",
        },
    )

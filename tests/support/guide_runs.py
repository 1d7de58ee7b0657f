"""Runs of the sister benchmark with made-up accuracies in all five measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import analysis_store as made
import numpy as np

from core.config import EvalConfig

EVALUATIONS = [
    EvalConfig.parse({"attack": "autoattack", **about})
    for about in (
        {"epsilons": ["0", "4/255"]},
        {"norm": "l2", "epsilons": ["0", "2"]},
        {"norm": "l1", "epsilons": ["0", "75"]},
    )
]
CORRUPTIONS = EvalConfig.parse({"attack": "corruptions", "severity": 3})


def finished(root: Path, right: int, **fields: Any) -> None:
    """A run of 100 images: so many right, of which each norm leaves fewer."""
    run = made.config(schedule="fix", objective={"kind": "at"}, **fields)
    for number, evaluation in enumerate(EVALUATIONS, start=1):
        left = right - 10 * number
        critical = np.repeat([2, 1, 0], [left, right - left, 100 - right])
        folder = made.finish(root, run, evaluation, critical=critical)
    about = {"attack": "corruptions", "norm": "linf", "epsilon": "0", "type": "snow"}
    rows = [{**about, "n": 100, "correct": right - 5}]
    made.write_json(
        folder.eval_json(CORRUPTIONS.id),
        {
            "id": CORRUPTIONS.id,
            "config": CORRUPTIONS.to_dict(),
            "rows": rows,
            "n": 100,
            "split_images": 100,
            "forwards": 1,
            "backwards": 0,
            "seconds": 1.0,
            "zero_gradient_images": 0,
            "commit": "",
        },
    )
    made.rewrite(folder.result, evals=[one.id for one in (*EVALUATIONS, CORRUPTIONS)])

"""Adds made-up evaluations with margins to the stores of the tests of analysis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from analysis_store import finish, write_json

from core.config import RunConfig
from core.config.evaluation_kinds import MinimalNorm
from core.store.folders import RunDir

MARGINS = MinimalNorm(margins=True)
EVAL_ID, CONFIG = MARGINS.id, MARGINS.to_dict()


def measured(n: int = 200, noise: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Distances around 4/255, and a logit margin that follows them as well as `noise` lets it."""
    generator = np.random.default_rng(seed)
    distance = generator.exponential(4 / 255, n)
    return {
        "distance": distance.astype(np.float32),
        "correct": generator.random(n) < 0.8,
        "logit_margin": (255 * distance + noise * generator.normal(size=n)).astype(np.float32),
    }


def add_margins(
    root: Path, run: RunConfig, arrays: Mapping[str, np.ndarray], **config: Any
) -> RunDir:
    """A finished run with an evaluation of margins beside its usual one."""
    folder = finish(root, run)
    n = len(arrays["distance"])
    rows = [
        {
            "attack": "fmn-100",
            "norm": "linf",
            "epsilon": str(epsilon),
            "n": n,
            "correct": int((arrays["correct"] & (arrays["distance"] > float(epsilon))).sum()),
        }
        for epsilon in MARGINS.epsilons
    ]
    record = {"id": EVAL_ID, "config": CONFIG | config, "rows": rows, "n": n, "split_images": n}
    costs = {"forwards": n, "backwards": n, "seconds": 1.0, "zero_gradient_images": 0}
    write_json(folder.eval_json(EVAL_ID), {**record, **costs, "commit": "0123abc"})
    index = np.arange(n, dtype=np.int32)
    np.savez(folder.eval_flags(EVAL_ID), index=index, label=index % 10, **arrays)
    return folder


def asking(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a manifest that ask for the evaluation of margins, too."""
    usual = {name: {} for row in rows for name in row["evals"]}
    return [{**row, "evals": {**usual, EVAL_ID: CONFIG}} for row in rows]

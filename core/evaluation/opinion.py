"""A second opinion on APGD: FMN attacks the first images that APGD has not broken at each strength.

It changes no accuracy, but shows how many of the images that count as right are not.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from torch import nn

from core.config.evaluation_kinds import SURVIVORS, RobustAccuracy
from core.data.splits import Split
from core.evaluation import minimal
from core.evaluation.measured import Context
from core.evaluation.queue import Search


class Opinion(TypedDict):
    """At strength `epsilon`, FMN breaks `broken` of `images` images that APGD has not broken."""

    epsilon: str
    images: int
    broken: int


def second_opinion(
    asked: RobustAccuracy, found: Search, model: nn.Module, split: Split, context: Context
) -> list[Opinion]:
    """An opinion for every strength above 0 that has survivors. Adds its cost to `found`. All
    processes of a team call this."""
    survivors = {
        level: np.flatnonzero(found.critical > level)[:SURVIVORS]
        for level in range(1, len(asked.epsilons))
    }
    rows = np.unique(np.concatenate([[], *survivors.values()])).astype(int)
    if not len(rows):
        return []
    chosen = torch.from_numpy(rows)
    known = minimal.search(
        model,
        Split(split.images[chosen], split.labels[chosen]),
        steps=asked.audit_steps,
        norm=asked.norm,
        **context.means,
        snapshot=context.snapshot("audit"),
    )
    found.forwards += known.forwards
    found.backwards += known.backwards
    distance = np.full(len(split), np.inf, np.float32)
    distance[rows] = known.to_wrong
    return [
        Opinion(
            epsilon=str(asked.epsilons[level]),
            images=len(images),
            broken=int((distance[images] <= np.float32(asked.levels[level])).sum()),
        )
        for level, images in survivors.items()
        if len(images)
    ]

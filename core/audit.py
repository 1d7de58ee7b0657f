"""The audit of fast evaluations: the same images once more in mode `exact`, on a fixed subset.

`fast` believes that an image which survives an attack survives every weaker one. Attacks are not
perfect, so this is measured each time and the evaluation fails where it does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from core import evaluate
from core.data import Split
from core.team import ALONE, Team

SHARE, LEAST = 0.1, 20
"""The subset: this share of the images, the first ones, but at least so many."""
TOLERANCE = 0.001
"""Largest share of (image, strength) pairs on which the two modes may disagree."""


class AuditError(RuntimeError):
    """Mode `fast` is not to be trusted on this model."""


@dataclass(frozen=True)
class Audit:
    """What the audit saw and cost (in images); part of the evaluation's json."""

    images: int
    pairs: int
    disagreeing: int
    forwards: int
    backwards: int


def check(
    found: evaluate.Search,
    model: nn.Module,
    split: Split,
    strengths: Sequence[float],
    *,
    steps: int,
    batch: int,
    device: torch.device,
    norm: str = "linf",
    team: Team = ALONE,
) -> Audit:
    """Repeat the first images of a fast search exactly, and give `found` their exact results.

    Raises AuditError where more than 0.1 % of the pairs disagree.
    """
    images = min(len(split), max(LEAST, round(SHARE * len(split))))
    how: Any = {"steps": steps, "batch": batch, "device": device, "norm": norm, "team": team}
    exact = evaluate.search(model, split.first(images), strengths, **how)
    # Flags are right below the critical level, so two images differ at as many strengths as lie
    # between their levels.
    gap = int(np.abs(found.critical[:images].astype(int) - exact.critical).sum())
    pairs = images * (len(strengths) - 1)
    if gap > TOLERANCE * pairs:
        raise AuditError(
            f"mode fast disagrees with mode exact on {gap} of {pairs} (image, strength) pairs "
            f"of the first {images} images (limit 0.1 %); evaluate with mode: exact"
        )
    found.critical[:images] = exact.critical
    return Audit(images, pairs, gap, exact.forwards, exact.backwards)

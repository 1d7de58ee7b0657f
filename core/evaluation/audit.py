"""The audit of fast evaluations: some images that may be wrong are evaluated in mode `exact`, too.

`fast` assumes that an image which survives an attack survives every weaker one. Attacks are not
perfect, so an image is doubtful if it survived strength k > 1: strengths 1 to k - 1 are untried.
All other images have had the attacks of mode `exact`. Enough doubtful images are drawn to bound the
share of wrong ones; if the bound is above the limit, the whole evaluation is repeated in `exact`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from core.config.seeds import derive
from core.config.strength import Norm
from core.data.splits import Split
from core.evaluation import queue
from core.machine.team import ALONE, Team
from core.store.snapshot import Snapshot

LIMIT = 0.01
"""Largest share of the doubtful images that may be wrong at any strength."""
RISK = 0.05
"""Largest probability of accepting a search with a larger share."""
FEW = 100
"""Up to this many doubtful images are all audited, since one that is missed may exceed LIMIT."""


@dataclass(frozen=True)
class Audit:
    """Result and cost of an audit; stored in the evaluation's JSON record."""

    doubtful: int
    """Number of images that may be wrong."""
    images: int
    """Number of these that were evaluated in mode `exact`."""
    wrong: int
    """Audited images that `fast` counts as right at a strength that breaks them."""
    at_most: int
    """Upper bound on the number of wrong images among the doubtful ones, at confidence 1 - RISK."""
    pairs: int
    """(image, strength) pairs of the audited images."""
    disagreeing: int
    """Pairs on which `fast` and `exact` differ."""
    fell_back: bool
    """Whether the results are those of mode `exact`."""
    forwards: int
    """Cost in images of the audit, and of the exact evaluation if it fell back."""
    backwards: int

    def __str__(self) -> str:
        return (
            f"mode fast is wrong on {self.wrong} of {self.images} audited images, hence on up to "
            f"{self.at_most} of {self.doubtful} doubtful ones (limit {LIMIT:.0%})"
        )


def check(
    found: queue.Search,
    model: nn.Module,
    split: Split,
    strengths: Sequence[float],
    *,
    steps: int,
    batch: int,
    device: torch.device,
    norm: Norm = "linf",
    team: Team = ALONE,
    failed: Callable[[str], object] = lambda text: None,
    progress: Callable[[int], None] = lambda done: None,
    snapshot: Snapshot | None = None,
) -> Audit:
    """Audit the fast search `found`, and write the exact results of the audited images into it, or
    of all images if more than 1 % of the doubtful ones may be wrong.

    failed: called with a message before all images are searched in mode `exact`; `progress` and
    `snapshot` are for that search. Other arguments as of core.evaluation.queue.search.
    """
    how: Any = {"steps": steps, "batch": batch, "device": device, "norm": norm, "team": team}
    doubtful = np.flatnonzero(found.critical > 2)
    rows = _draw(doubtful)
    few = replace(split, images=split.images[rows], labels=split.labels[rows])
    exact = queue.search(model, few, strengths, **how)
    # An image is right at all strengths below its critical level, so the number of strengths on
    # which the two searches disagree is the difference between its two levels.
    gap = np.abs(found.critical[rows].astype(int) - exact.critical)
    wrong = int((gap > 0).sum())
    most = _at_most(wrong, len(rows), len(doubtful))
    seen = Audit(
        doubtful=len(doubtful),
        images=len(rows),
        wrong=wrong,
        at_most=most,
        pairs=len(rows) * (len(strengths) - 1),
        disagreeing=int(gap.sum()),
        fell_back=most > LIMIT * len(doubtful),
        forwards=exact.forwards,
        backwards=exact.backwards,
    )
    found.put(rows, exact)
    if not seen.fell_back:
        return seen
    failed(f"{seen}; evaluating in mode exact")
    whole = queue.search(model, split, strengths, **how, progress=progress, snapshot=snapshot)
    found.put(slice(None), whole)
    found.zero_gradient_images = whole.zero_gradient_images
    return replace(
        seen,
        forwards=seen.forwards + whole.forwards,
        backwards=seen.backwards + whole.backwards,
    )


def _draw(doubtful: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The doubtful images to audit, ascending: the fewest that suffice if none of them is wrong."""
    from scipy.stats import hypergeom  # 0.5 s to import, only for fast evaluations

    count = len(doubtful)
    if count <= FEW:
        return doubtful
    over = int(LIMIT * count) + 1
    size = bisect_left(
        range(count), True, key=lambda images: hypergeom.pmf(0, count, over, images) <= RISK
    )
    drawn = np.random.default_rng(derive(0, "audit")).choice(doubtful, size, replace=False)
    return np.sort(drawn)


def _at_most(wrong: int, images: int, doubtful: int) -> int:
    """Upper confidence bound on the number of wrong images among `doubtful` ones, of which `images`
    were drawn and `wrong` found wrong: exact, one-sided, for draws without replacement."""
    if images == doubtful:
        return wrong
    from scipy.stats import hypergeom

    possible = range(wrong, doubtful - images + wrong + 1)
    likely = bisect_left(
        possible, True, key=lambda total: hypergeom.cdf(wrong, doubtful, total, images) <= RISK
    )
    return possible[likely - 1]

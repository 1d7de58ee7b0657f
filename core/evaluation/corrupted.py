"""Accuracy under common corruptions: one type per image, or all eleven types on every image."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from core.attack.apgd import attacking, is_right
from core.config import Corruptions
from core.config.seeds import derive
from core.data.corruptions import CORRUPTIONS, corrupt
from core.data.splits import Split
from core.errors import TeamError
from core.evaluation.measured import Context, Measured
from core.machine.team import ALONE, Team
from core.store.records import ResultRow

KINDS = tuple(CORRUPTIONS)
SEED = 0
"""Fixed, so that all runs are evaluated on the same corrupted images."""


@dataclass(frozen=True)
class Corrupted:
    """right: [N, types], 1 if the image is right under that type, 0 if wrong, -1 if not tried.
    forwards: cost in images."""

    right: NDArray[np.int8]
    forwards: int

    @property
    def critical(self) -> NDArray[np.int16]:
        """[N]: 1 if an image is right under every type tried, else 0."""
        critical: NDArray[np.int16] = (self.right != 0).all(1).astype(np.int16)
        return critical

    def counts(self) -> dict[str, tuple[int, int]]:
        """Type -> (images right, images tried), for types tried on any image."""
        found = {
            kind: (int((column == 1).sum()), int((column >= 0).sum()))
            for kind, column in zip(KINDS, self.right.T, strict=True)
        }
        return {kind: pair for kind, pair in found.items() if pair[1]}


def kinds_of(index: int, images: int, per_image: Literal["one", "all"]) -> tuple[str, ...]:
    """The types tried on image `index` of `images`: all, or one. For one, consecutive blocks of
    floor(images / 11) images get one type each, and the rest the last type (as in the guide)."""
    match per_image:
        case "all":
            return KINDS
        case "one":
            block = max(images // len(KINDS), 1)
            return (KINDS[min(index // block, len(KINDS) - 1)],)
        case _:
            assert_never(per_image)


def measure(asked: Corruptions, model: nn.Module, split: Split, context: Context) -> Measured:
    """Run the evaluation; a result row per type that was tried."""
    found = search(
        model,
        split,
        severity=asked.severity,
        per_image=asked.per_image,
        **context.means,
        progress=context.progress,
    )
    rows = [
        ResultRow(attack=asked.name, norm="linf", epsilon="0", type=kind, n=n, correct=right)
        for kind, (right, n) in found.counts().items()
    ]
    return Measured(
        rows,
        {"critical": found.critical, "right": found.right},
        forwards=found.forwards,
    )


def search(
    model: nn.Module,
    split: Split,
    *,
    severity: int,
    per_image: Literal["one", "all"] = "one",
    batch: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    team: Team = ALONE,
) -> Corrupted:
    """Which corrupted images of `split` are right. progress: called with the number of finished
    images. Raises TeamError unless every (image, type) was evaluated exactly once."""
    right = np.full((len(split), len(KINDS)), -1, np.int8)
    tasks = [
        (index, kind)
        for index in team.mine(torch.arange(len(split))).tolist()
        for kind in kinds_of(index, len(split), per_image)
    ]
    done = 0
    make = partial(_corrupt_image, split, severity)
    with attacking(model) as target, ThreadPoolExecutor() as threads, torch.no_grad():
        for start in range(0, len(tasks), batch):
            part = tasks[start : start + batch]
            images = torch.from_numpy(np.stack(list(threads.map(make, part))))
            rows = torch.tensor([index for index, _ in part])
            x, y = Split(images, split.labels[rows]).batch(torch.arange(len(part)), device)
            answers = is_right(target(x), y).cpu().numpy()
            for (index, kind), answer in zip(part, answers, strict=True):
                right[index, KINDS.index(kind)] = answer
            done += len(part)
            progress(round(len(split) * done / len(tasks)))
    return _joined(right, team, len(tasks))


def _corrupt_image(split: Split, severity: int, task: tuple[int, str]) -> NDArray[np.uint8]:
    index, kind = task
    seed = derive(SEED, "corruption", kind, index)
    return corrupt(split.images[index].numpy(), kind, severity, seed)


def _joined(right: NDArray[np.int8], team: Team, tried: int) -> Corrupted:
    """The result of all processes from the partial ones, in which untried pairs are -1."""
    parts = np.stack(team.gather(right))
    if ((parts >= 0).sum(0) > 1).any() or not (parts >= 0).any((0, 2)).all():
        raise TeamError("not every image was corrupted and evaluated exactly once")
    return Corrupted(parts.max(0), forwards=sum(team.gather(tried)))

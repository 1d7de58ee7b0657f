"""The standard AutoAttack (Croce & Hein 2020), from the optional package pyautoattack.

It attacks only images that survive APGD, so it can only lower an accuracy. It may take a day, so
results are stored after every batch, and an interrupted evaluation continues from there.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from core.attack.apgd import attacking, class_of
from core.attack.projection import usable
from core.config import AutoAttack, ConfigError
from core.config.strength import Norm
from core.data.splits import Split
from core.evaluation import robust
from core.evaluation.measured import Context, Measured
from core.evaluation.queue import Search, joined
from core.machine.team import ALONE, Team
from core.store.files import Write, write_atomic

log = logging.getLogger("epsweep")
NORMS: dict[Norm, tuple[str, float]] = {
    "linf": ("Linf", math.inf),
    "l2": ("L2", 2),
    "l1": ("L1", 1),
}
"""Norm -> (its name in the ensemble, its order)."""


def measure(asked: AutoAttack, model: nn.Module, split: Split, context: Context) -> Measured:
    """Run APGD and then the ensemble on the images that survive it; a row per strength."""
    found = evaluate(
        partial(robust.search, asked, model, split, replace(context, progress=_unheard)),
        model,
        split,
        asked.levels,
        norm=asked.norm,
        batch=context.batch,
        device=context.device,
        ledger=Ledger(context.part, context.write),
        progress=context.progress,
        team=context.team,
    )
    return robust.measured(asked, found)


def _unheard(done: int) -> None:
    """Ignores APGD's progress, which does not show how long the ensemble will take."""


def require() -> Any:
    """The module pyautoattack. Raises ConfigError if it is not installed."""
    try:
        import pyautoattack
    except ImportError:
        raise ConfigError(AutoAttack().need) from None
    return pyautoattack


class Counted(nn.Module):
    """Counts images passed forward, and those whose gradient is needed. Replaces NaN and huge
    values in gradients: with them an attack would go on from a NaN image, to no effect."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        self.backwards += len(x) * x.requires_grad
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(usable)
        logits: Tensor = self.inner(x)
        return logits


class Ledger:
    """The file with partial results of an evaluation: the search so far, and for each image the
    index of the highest strength at which AutoAttack has tried it. write: as for a Snapshot."""

    def __init__(self, file: Path, write: Write = write_atomic) -> None:
        self.file, self.write = file, write

    def load(self) -> tuple[Search, np.ndarray[Any, Any]] | None:
        """(search, tried [n]); None if there is no file or it is damaged."""
        try:
            with np.load(io.BytesIO(self.file.read_bytes())) as stored:
                names = ("forwards", "backwards", "zero_gradient_images")
                counts = {name: int(stored[name]) for name in names}
                critical = stored["critical"]
                # Older versions did not store `taken`.
                taken = stored.get("taken", np.full(len(critical), -1, np.int32))
                return Search(critical, taken, **counts), stored["tried"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def save(self, found: Search, tried: np.ndarray[Any, Any]) -> None:
        """Replace the file. Raises OSError and whatever `write` raises."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, tried=tried, **asdict(found))
        self.write(self.file, lambda file: file.write(buffer.getvalue()))


def evaluate(
    first: Callable[[], Search],
    model: nn.Module,
    split: Split,
    strengths: Sequence[float],
    *,
    norm: Norm,
    batch: int,
    device: torch.device,
    ledger: Ledger,
    progress: Callable[[int], None] = lambda done: None,
    team: Team = ALONE,
) -> Search:
    """Critical strengths under APGD (`first`, called unless the ledger has its result) and then
    AutoAttack, strength by strength, each time on the images that are still right.

    progress: called with the number of images that AutoAttack has finished; one with half of its
    strengths finished counts as half. Raises ConfigError as `require` does.
    """
    require()
    mine = team.mine(torch.arange(len(split)))
    known = ledger.load()
    if any(team.gather(known is None)):
        found = first()
        if team.size > 1:
            costs = (found.forwards, found.backwards, found.zero_gradient_images)
            results = found.critical[mine.numpy()], found.taken[mine.numpy()]
            found = Search(*results, *(costs if team.leads else ()))
        known = found, np.zeros(len(mine), np.int16)
        ledger.save(*known)
    assert known is not None
    found, tried = known
    with attacking(model) as inner:
        target = Counted(inner)
        progress(round(len(split) * _share(found, tried)))
        for level, epsilon in enumerate(strengths[1:], start=1):
            while len(rows := np.flatnonzero((found.critical > level) & (tried < level))[:batch]):
                x, y = split.batch(mine[torch.from_numpy(rows)], device)
                try:
                    taken = _attack(target, x, y, epsilon, norm).cpu().numpy()
                except torch.OutOfMemoryError:
                    if batch == 1:
                        raise
                    # Retried here, not by the caller: `gather` must be called once by each process.
                    batch = (batch + 1) // 2
                    log.warning("out of memory: continuing AutoAttack with %d images each", batch)
                    continue
                broken = taken != y.cpu().numpy()
                found.critical[rows[broken]], found.taken[rows[broken]] = level, taken[broken]
                tried[rows] = level
                found.forwards, target.forwards = found.forwards + target.forwards, 0
                found.backwards, target.backwards = found.backwards + target.backwards, 0
                ledger.save(found, tried)
                progress(round(len(split) * _share(found, tried)))
    return found if team.size == 1 else joined(team.gather((mine.numpy(), found)), len(split))


def _share(found: Search, tried: np.ndarray[Any, Any]) -> float:
    """Share of the (image, strength) pairs to attack that have been attacked."""
    done, left = tried.sum(), np.maximum(found.critical - 1 - tried, 0).sum()
    return float(done / (done + left)) if left else 1.0


def _attack(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The class [B] that each image is taken for after the standard ensemble; y if that has not
    broken it. Its seed is 0 for every batch, and the caller's random state is left unchanged."""
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        ensemble = require().AutoAttack(
            model, norm=NORMS[norm][0], eps=epsilon, seed=0, version="standard", device=x.device
        )
        with torch.no_grad():
            others = model(x[:1]).shape[1] - 1
        for attack in (ensemble.apgd_targeted, ensemble.fab):
            attack.n_target_classes = min(attack.n_target_classes, others)
        adversarial, _ = ensemble.run_standard_evaluation(x, y, batch_size=len(x))
    with torch.no_grad():
        taken = class_of(model(adversarial))
    return torch.where(_inside(adversarial, x, epsilon, norm), taken, y)


def _inside(point: Tensor, clean: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Which points [B] are in the ball, up to rounding, and in the pixel range."""
    away, (_, order) = (point - clean).flatten(1).double(), NORMS[norm]
    far: Tensor = torch.linalg.vector_norm(away, ord=order, dim=1)
    in_range = (point.flatten(1).amin(1) >= 0) & (point.flatten(1).amax(1) <= 1)
    return (far <= epsilon * (1 + 1e-4) + 1e-6) & in_range

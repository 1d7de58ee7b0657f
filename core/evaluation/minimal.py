"""Distances to the decision boundary by FMN: one attack per image gives accuracy at every strength.

An image counts as right at eps if it is right when clean and the smallest perturbation found that
changes its prediction is longer than eps. Expected accuracy over eps ~ U[0, e] is then an exact
integral, (1 / e) * mean(min(distance, e)), with distance 0 for images that are wrong when clean; it
does not depend on the strengths of the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.attack.apgd import attacking, rivalry_of
from core.attack.approaches import APPROACHES
from core.attack.minimal import END, SHRINK, Approach
from core.config.evaluation_kinds import MinimalNorm
from core.config.strength import Norm
from core.data.splits import Split
from core.evaluation.measured import Context, Measured
from core.evaluation.pseudo import pseudo_margins
from core.evaluation.queue import order_of
from core.evaluation.slots import Queue, Slots
from core.machine.team import ALONE, Team
from core.model.convolutions import layout
from core.model.linear_head import feature_margins, find_linear_head, gaps
from core.store.records import ResultRow, curve, expected_over
from core.store.snapshot import Snapshot

ARRAYS = {"distance": "float32", "predicted": "int32", "correct": "bool", "target": "int32"}
MARGINS = {"logit_margin": "float32", "feature_margin": "float32"}
APART = 8


@dataclass
class Distances:
    """Result of a search, as arrays [n] with an entry per image, and its cost in images.

    distance: length of the smallest perturbation found that changes the prediction, inf if none was
    found, 0 for wrong images that were not attacked. predicted: class of the clean image. correct:
    whether that is its label. target: class of the perturbed image, -1 if none was found.
    """

    arrays: dict[str, NDArray[Any]]
    forwards: int = 0
    backwards: int = 0
    zero_gradient_images: int = 0
    """Right images without a usable gradient, as in core.evaluation.queue."""

    @property
    def to_wrong(self) -> NDArray[np.float32]:
        """Distances [n] to the nearest misclassified point found: 0 for images wrong when clean."""
        return np.where(self.arrays["correct"], self.arrays["distance"], np.float32(0))


def measure(asked: MinimalNorm, model: nn.Module, split: Split, context: Context) -> Measured:
    """Run the evaluation: a row per strength with the expected accuracy up to it, the arrays of
    `Distances`, and the critical level of every image; logit, feature and pseudo-margins if the
    config asks for them."""
    how: Any = {name: getattr(asked, name) for name in ("steps", "norm", "margins")}
    how |= context.means
    found = search(model, split, **how, progress=context.progress, snapshot=context.snapshot())
    if asked.margins and "feature_margin" not in found.arrays:
        context.remark(
            f"{asked.id}: no feature margins, the network's head is not one linear layer"
        )
    if asked.pseudo_images and context.held_out:
        held_out = context.held_out.first(asked.pseudo_images)
        known = search(model, held_out, **how, snapshot=context.snapshot("pseudo"))
        distance = known.arrays["distance"]
        with attacking(model) as target:
            found.arrays |= pseudo_margins(
                target, held_out, distance, split, batch=context.batch, device=context.device
            )
        found.forwards += known.forwards + len(split) + len(held_out)
        found.backwards += known.backwards
        if failed := int(np.isinf(distance).sum()):
            context.remark(
                f"{asked.id}: no distance found for {failed} of {len(distance)} images that "
                "pseudo-margins learn from; these are left out"
            )
    return measured(asked, found)


def measured(asked: MinimalNorm, found: Distances) -> Measured:
    """The record of a search: rows, arrays, expected accuracy."""
    distance, levels = found.to_wrong, asked.levels
    rows = [
        ResultRow(
            attack=asked.name,
            norm=asked.norm,
            epsilon=str(epsilon),
            n=len(distance),
            correct=int((distance > level).sum()),
            expected=expected_accuracy(distance, level),
        )
        for epsilon, level in zip(asked.epsilons, levels, strict=True)
    ]
    several, accuracy = len(rows) > 1, curve(rows)
    expected = rows[-1]["expected"] if several else None
    if asked.prior is not None:
        expected = expected_over(accuracy, asked.prior)
    return Measured(
        rows,
        {**found.arrays, "critical": critical(distance, levels)},
        expected=expected,
        forwards=found.forwards,
        backwards=found.backwards,
        extras={
            "zero_gradient_images": found.zero_gradient_images,
            "trapezoid": expected_over(accuracy) if several else None,
            "unbroken": int(np.isinf(found.arrays["distance"]).sum()),
        },
    )


def critical(distance: NDArray[np.float32], levels: Sequence[float]) -> NDArray[np.int16]:
    """[n]: index of the smallest strength that breaks an image, len(levels) if none does."""
    above = distance[:, None] > np.array(levels, np.float32)
    return np.array(above.sum(1), np.int16)


def expected_accuracy(distance: NDArray[np.float32], epsilon: float) -> float:
    """Exact expected accuracy, in [0, 1], over eps ~ U[0, epsilon]; for epsilon 0, the clean
    accuracy. distance: [n], 0 for images wrong when clean.

    >>> expected_accuracy(np.float32([0, 0.25, 1]), 0.5)
    0.5
    """
    if not epsilon:
        return float((distance > 0).mean())
    return float(np.minimum(distance, epsilon).mean(dtype=np.float64) / epsilon)


@dataclass(eq=False)
class _Slots(Slots):
    index: Tensor
    labels: Tensor
    path: Approach  # its images are [B, H, W, C] if the network's layout is channels_last


def search(
    model: nn.Module,
    split: Split,
    *,
    steps: int,
    batch: int,
    device: torch.device,
    norm: Norm = "linf",
    margins: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    team: Team = ALONE,
    snapshot: Snapshot | None = None,
) -> Distances:
    """Distances of every image of `split`. margins: also attack the predictions of wrong images and
    measure logit and feature margins.

    Other arguments, and errors, as of core.evaluation.queue.search.
    """
    rows = team.mine(torch.arange(len(split)))
    with attacking(model) as target:
        queue = _Queue(target, split, rows, steps, device, norm, margins)
        if snapshot:
            snapshot.about |= {"rank": team.rank, "size": team.size}
        queue.run(batch, lambda done: progress(done * team.size), snapshot)
    if team.size == 1:
        return queue.found
    return _joined(team.gather((rows.numpy(), queue.found)), len(split))


def _joined(parts: Sequence[tuple[NDArray[Any], Distances]], images: int) -> Distances:
    """The search from its parts, (rows, distances) of each process. Raises TeamError unless every
    image is in exactly one part."""
    order = order_of([rows for rows, _ in parts], images)
    searches = [found for _, found in parts]
    names = searches[0].arrays
    return Distances(
        {name: np.concatenate([one.arrays[name] for one in searches])[order] for name in names},
        sum(one.forwards for one in searches),
        sum(one.backwards for one in searches),
        sum(one.zero_gradient_images for one in searches),
    )


class _Queue(Queue[_Slots]):
    """A batch of images, each at its own step of its `Approach`."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        rows: Tensor,
        steps: int,
        device: torch.device,
        norm: Norm,
        margins: bool,
    ) -> None:
        super().__init__(split, rows, device)
        self.model, self.steps, self.norm, self.margins = model, steps, norm, margins
        # Images in the network's own memory layout spare two copies per step.
        last = layout(model) is torch.channels_last
        self.order, self.back = ((0, 2, 3, 1), (0, 3, 1, 2)) if last else ((0, 1, 2, 3),) * 2
        x, _ = split.batch(torch.arange(1), device)
        with torch.no_grad():
            self.classes = model(x).shape[1]
        head = find_linear_head(model, x) if margins else None
        self.gaps = gaps(head, norm) if head else None
        kinds = ARRAYS | (MARGINS if margins else {})
        names = [name for name in kinds if head or name != "feature_margin"]
        self.found = Distances({name: np.zeros(len(rows), kinds[name]) for name in names})

    def about(self) -> dict[str, Any]:
        names = ("steps", "norm", "margins")
        return {"attack": "fmn", **{name: getattr(self, name) for name in names}}

    def known(self) -> dict[str, Any]:
        arrays = {name: values.tolist() for name, values in self.found.arrays.items()}
        return vars(self.found) | {"arrays": arrays}

    def recall(self, known: dict[str, Any]) -> None:
        kept, arrays = known["arrays"], self.found.arrays
        arrays = {name: np.array(kept[name], values.dtype) for name, values in arrays.items()}
        self.found = Distances(**known | {"arrays": arrays})

    def enter(self, index: Tensor, x: Tensor, y: Tensor) -> _Slots:
        images = x.permute(self.order).contiguous()
        return _Slots(index, y, APPROACHES[self.norm].start(images, self.classes))

    def step(self, slots: _Slots) -> Tensor:
        """One forward for every slot, and a gradient for those that need one."""
        path = slots.path
        fresh = (path.own < 0).nonzero().flatten()
        lead, gradient, logits = self._look(path)
        broken = path.observe(lead, gradient, logits, self.steps)
        if len(fresh):
            right = ~broken[fresh] & (path.own == slots.labels)[fresh]
            self._meet(slots, fresh, right, logits[fresh])
        done = (path.stage == END).nonzero().flatten()
        if len(done):
            self._settle(slots, done)
        return done

    def _look(self, path: Approach) -> tuple[Tensor, Tensor, Tensor]:
        """Lead, its gradient, and logits at every point. The bisection needs no gradient: if more
        than one image in APART is in that stage, these images get a separate forward, and gradient
        0."""
        halving = path.stage == SHRINK
        self.found.forwards += len(halving)
        if APART * int(halving.sum()) <= len(halving):
            return self._rivalry(path, slice(None))
        rows, others = halving.nonzero().flatten(), (~halving).nonzero().flatten()
        lead, gradient = torch.zeros_like(path.distance), torch.zeros_like(path.point)
        logits = lead.new_empty(len(lead), self.classes)
        with torch.no_grad():
            logits[rows] = self.model(path.point[rows].permute(self.back)).float()
        if len(others):
            lead[others], gradient[others], logits[others] = self._rivalry(path, others)
        return lead, gradient, logits

    def _rivalry(self, path: Approach, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        point, own, rival = path.point[rows], path.own[rows], path.rival[rows]
        self.found.backwards += len(point)
        lead, gradient, logits = rivalry_of(self.model, point.permute(self.back), own, rival)
        return lead, gradient.permute(self.order).contiguous(), logits

    def _meet(self, slots: _Slots, rows: Tensor, right: Tensor, logits: Tensor) -> None:
        """Record what the logits of clean images show. Wrong images end here unless margins are
        measured."""
        found = {"predicted": slots.path.own[rows], "correct": right}
        if self.margins:
            largest = logits.topk(2, dim=1).values
            found["logit_margin"] = largest[:, 0] - largest[:, 1]
        else:
            wrong = rows[~right]
            slots.path.stage[wrong] = END
            slots.path.distance[wrong], slots.path.target[wrong] = 0, slots.path.own[wrong]
        if self.gaps is not None:
            found["feature_margin"] = feature_margins(logits, self.gaps)
        self._write(slots, rows, found)

    def _settle(self, slots: _Slots, rows: Tensor) -> None:
        """Record the distances of finished images, computed again in float64: those that guided the
        search have the rounding errors of float32 sums."""
        path = slots.path
        exact = path.length(path.best[rows].double() - path.clean[rows].double()).float()
        distance = torch.where(path.distance[rows].isfinite(), exact, torch.inf)
        self._write(slots, rows, {"distance": distance, "target": path.target[rows]})
        right = path.own[rows] == slots.labels[rows]
        self.found.zero_gradient_images += int((path.blind[rows] & right).sum())

    def _write(self, slots: _Slots, rows: Tensor, found: dict[str, Tensor]) -> None:
        places = slots.index[rows].cpu().numpy()
        for name, values in found.items():
            self.found.arrays[name][places] = values.cpu().numpy()

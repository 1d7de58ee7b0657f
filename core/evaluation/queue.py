"""Robust accuracy at many strengths: for each image, the smallest strength that breaks it.

Mode `exact`: images that are wrong when clean are not attacked. A right one is attacked at one
strength after another, each time by a full APGD from the clean image, until one breaks it (any
iterate misclassified). Balls are nested, so an image broken at eps is broken at every larger eps,
and the accuracy is at most that of independent attacks at each eps.

Mode `fast`: a right image is attacked at the largest strength first, then at smaller ones until it
survives. Every strength counted as breaking it was tried; the untried smaller ones count as
survived, so the accuracy is at least that of independent attacks and needs an audit
(core.evaluation.audit). For an image that survives at most the smallest strength, both modes agree.

In both modes an image stops when it is broken and the next one takes its place, so batches stay
full. Loss and gradient at the clean image are computed once for all strengths. Each of the n
processes of a team takes every n-th image. An interrupted search continues from its last snapshot
and gives bit-identical results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.attack.apgd import attacking, class_of, gradient_of, is_right, loss_of
from core.attack.trajectory import Trajectory, choose_trajectory
from core.config.strength import Norm
from core.data.splits import Split
from core.errors import TeamError
from core.evaluation.slots import Queue, Slots
from core.machine.team import ALONE, Team
from core.store.snapshot import Snapshot

Mode = Literal["exact", "fast"]


@dataclass
class Search:
    """critical[i]: index of the smallest strength that breaks image i, 0 if it is wrong when clean,
    len(strengths) if none does. taken[i]: the class it is taken for from that strength on; its
    label if none breaks it, -1 if the class is unknown. forwards, backwards: costs in images."""

    critical: NDArray[np.int16]
    taken: NDArray[np.int32]
    forwards: int = 0
    backwards: int = 0
    zero_gradient_images: int = 0
    """Right images without a usable gradient: zero at the clean image, or not finite at any point.
    Their robustness cannot be trusted (saturated or masked gradients)."""

    @classmethod
    def blank(cls, images: int) -> Search:
        """The results before the search begins."""
        return cls(np.zeros(images, np.int16), np.full(images, -1, np.int32))

    def correct(self, level: int) -> int:
        """Number of images that are right at the strength of index `level`."""
        return int((self.critical > level).sum())

    def put(self, rows: NDArray[Any] | slice, other: Search) -> None:
        """Replace the results of the given images by those of another search."""
        self.critical[rows], self.taken[rows] = other.critical, other.taken


@dataclass
class _Slots(Slots):
    """The images under attack: place in the queue, current strength, state at the clean image."""

    index: Tensor  # [B] index into the queue's rows
    level: Tensor  # [B] index of the current strength; 0 is the clean image
    labels: Tensor
    taken: Tensor  # [B] class at the last misclassified point; the label if there was none
    clean: Tensor  # [B, C, H, W]
    clean_loss: Tensor  # [B]
    clean_gradient: Tensor  # [B, C, H, W]
    blind: Tensor  # [B] whether its gradient was unusable at a point classified correctly
    path: Trajectory


def search(
    model: nn.Module,
    split: Split,
    strengths: Sequence[float],
    *,
    steps: int,
    batch: int,
    device: torch.device,
    mode: Mode = "exact",
    norm: Norm = "linf",
    progress: Callable[[int], None] = lambda done: None,
    team: Team = ALONE,
    snapshot: Snapshot | None = None,
) -> Search:
    """Critical strengths of every image of `split`. strengths: ascending from 0.

    progress: called with the number of finished images, estimated for the whole team from this
    process's share. snapshot: where to store the state, and to continue from. Raises TeamError
    unless every image was searched exactly once, ConfigError if the norm is unknown.
    """
    rows = team.mine(torch.arange(len(split)))
    with attacking(model) as target:
        if len(strengths) == 1:
            found = _clean_search(target, split, rows, batch, device)
        else:
            start = choose_trajectory(norm).start
            queue = _Queue(target, split, rows, strengths, steps, device, mode, start)
            if snapshot:
                snapshot.about |= {"norm": norm, "rank": team.rank, "size": team.size}
            queue.run(batch, lambda done: progress(done * team.size), snapshot)
            found = queue.found
    return found if team.size == 1 else joined(team.gather((rows.numpy(), found)), len(split))


def joined(parts: Sequence[tuple[np.ndarray[Any, Any], Search]], images: int) -> Search:
    """The search from its parts, each with the rows that it covers. Raises TeamError unless every
    image is in exactly one part."""
    order = order_of([rows for rows, _ in parts], images)
    searches = [found for _, found in parts]
    return Search(
        np.concatenate([one.critical for one in searches])[order],
        np.concatenate([one.taken for one in searches])[order],
        sum(one.forwards for one in searches),
        sum(one.backwards for one in searches),
        sum(one.zero_gradient_images for one in searches),
    )


def order_of(rows: Sequence[np.ndarray[Any, Any]], images: int) -> np.ndarray[Any, Any]:
    """The order that sorts the concatenated rows of a team's processes. Raises TeamError unless
    they contain every image exactly once."""
    seen = np.concatenate(rows)
    if not np.array_equal(np.sort(seen), np.arange(images)):
        raise TeamError(
            f"expected each of {images} images evaluated once, got {len(seen)} evaluations of "
            f"{len(np.unique(seen))} images"
        )
    return np.argsort(seen)


def _clean_search(
    model: nn.Module, split: Split, rows: Tensor, batch: int, device: torch.device
) -> Search:
    found = Search.blank(len(rows))
    found.forwards = len(rows)
    for index in torch.arange(len(rows)).split(batch):
        x, y = split.batch(rows[index], device)
        taken = class_of(loss_of(model, x, y)[1])
        found.critical[index.numpy()] = (taken == y).cpu().numpy()
        found.taken[index.numpy()] = taken.cpu().numpy()
    return found


class _Queue(Queue[_Slots]):
    """A batch of images, each at its own strength."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        rows: Tensor,
        strengths: Sequence[float],
        steps: int,
        device: torch.device,
        mode: Mode,
        start: Callable[[Tensor, Tensor, Tensor, Tensor, int], Trajectory],
    ) -> None:
        super().__init__(split, rows, device)
        self.model, self.steps, self.start = model, steps, start
        self.follow = {"exact": _climb, "fast": _descend}[mode]
        self.strengths = torch.tensor(strengths, dtype=torch.float32, device=device)
        self.found = Search.blank(len(rows))

    def about(self) -> dict[str, Any]:
        return {
            "strengths": self.strengths.tolist(),
            "steps": self.steps,
            "path": self.follow.__name__,
        }

    def known(self) -> dict[str, Any]:
        arrays = {"critical": self.found.critical.tolist(), "taken": self.found.taken.tolist()}
        return vars(self.found) | arrays

    def recall(self, known: dict[str, Any]) -> None:
        critical, taken = np.array(known["critical"], np.int16), np.array(known["taken"], np.int32)
        self.found = Search(**known | {"critical": critical, "taken": taken})

    def enter(self, index: Tensor, x: Tensor, y: Tensor) -> _Slots:
        """Slots at level 0, whose ball is a point: the first `advance` stays at the clean image."""
        level, loss = torch.zeros_like(y), torch.zeros(len(y), device=self.device)
        blind, gradient = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(x)
        path = self._path(x, gradient, loss, level)
        return _Slots(index, level, y, y.clone(), x, loss, gradient, blind, path)

    def _path(self, x: Tensor, gradient: Tensor, loss: Tensor, level: Tensor) -> Trajectory:
        """Trajectories at the given levels, from clean images with known gradient and loss."""
        return self.start(x, gradient.clone(), loss.clone(), self.strengths[level], self.steps)

    def step(self, slots: _Slots) -> Tensor:
        """One forward and one gradient for every slot."""
        path = slots.path
        path.advance()
        loss, gradient, logits = gradient_of(self.model, path.point, slots.labels)
        self.found.forwards += len(loss)
        self.found.backwards += len(loss)
        first = slots.level == 0
        taken = class_of(logits)
        right = taken == slots.labels
        slots.taken = torch.where(right, slots.taken, taken)
        fresh = first.nonzero().flatten()
        if len(fresh):
            slope = gradient[fresh]
            slots.clean_loss[fresh], slots.clean_gradient[fresh] = loss[fresh], slope
            slots.blind[fresh] = right[fresh] & (slope.flatten(1).abs().amax(1) == 0)
        slots.blind |= right & ~gradient.flatten(1).sum(1).isfinite()
        path.observe(loss, gradient)
        passed = right & (first | (path.step >= self.steps))
        slots.level, ended = self.follow(slots.level, passed, ~right, len(self.strengths) - 1)
        self._restart(slots, ((passed | ~right) & ~ended).nonzero().flatten())
        done = ended.nonzero().flatten()
        self.found.zero_gradient_images += int(slots.blind[done].sum())
        ends = torch.stack([slots.index[done], slots.level[done], slots.taken[done]]).cpu().numpy()
        self.found.critical[ends[0]], self.found.taken[ends[0]] = ends[1:]
        return done

    def _restart(self, slots: _Slots, rows: Tensor) -> None:
        """Start the given rows at their new levels, from the clean images."""
        if len(rows):
            known = slots.clean[rows], slots.clean_gradient[rows], slots.clean_loss[rows]
            slots.path.put(rows, self._path(*known, slots.level[rows]))


def _climb(level: Tensor, passed: Tensor, broken: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Raise by one the level of the images [B] that passed. Returns the new level, which is the
    critical one for images that end, and which images end."""
    following = level + passed
    return following, broken | (following > top)


def _descend(level: Tensor, passed: Tensor, broken: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """As `_climb`, but from the clean image to the top level and from there down."""
    clean = level == 0
    above = torch.where(clean, top, level + 1)
    below = (level - 1).clamp(min=1)
    following = torch.where(passed, above, torch.where(broken & ~clean, below, level))
    return following, (passed & ~clean) | (broken & (level <= 1))


@torch.no_grad()
def clean_loss(
    model: nn.Module, split: Split, *, batch: int, device: torch.device, team: Team = ALONE
) -> tuple[float, int]:
    """Mean cross-entropy on a split, and the number of images classified correctly."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.long, device=device)
    with attacking(model) as target:
        for index in team.mine(torch.arange(len(split))).split(batch):
            x, y = split.batch(index, device)
            loss, logits = loss_of(target, x, y)
            total += loss.double().sum()
            correct += is_right(logits, y).sum()
    team.total([total, correct])
    return float(total) / len(split), int(correct)

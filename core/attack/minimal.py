"""The smallest perturbation that changes a prediction: FMN (Pintor et al. 2021) from DeepFool
(Moosavi-Dezfooli et al. 2016), in l-inf, l2 and l1.

An image goes through five stages. SCAN: among the strongest other classes at the clean image, whose
boundaries would be nearest if logits were linear? Towards the two nearest, one after the other, go
START and WALK, DeepFool's steps until the prediction changes, and DESCEND, FMN in a ball that
shrinks while its points are adversarial and grows while they are not. SHRINK: bisection on the way
from the clean image to the nearest point found.

The choice of classes decides how near it comes. Against the best of all attacks tried (l-inf, two
networks of 32 and 64 classes), 100 steps from the strongest class end 7 to 8 % further away, from
the nearest of nine 0.8 to 1.3 %, from the nearest of all no nearer; 50 from each of the two nearest
end 0.3 to 0.6 % further away.

Every point is looked at before it counts: a distance is an upper bound, never too small. Like the
trajectory of APGD, an `Approach` needs no random numbers and never calls the model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from core.attack.apgd import is_right
from core.attack.projection import LARGEST, per_image, project_l1, usable
from core.attack.rows import Rows
from core.config.strength import Norm

RIVALS = 9
"""Classes among which the nearest are chosen; more cost a look each and change nothing."""
STARTS = 2
"""Descents that share FMN's steps, each towards another class."""
WALKS = 50
"""Steps of DeepFool at most; two or three are enough for most images."""
OVERSHOOT = 0.02
"""How far DeepFool steps beyond the boundary of the linear model, as a share of the way."""
STRIDE = 1e-5
"""Length of a step of DeepFool at least: on a boundary itself, the linear model asks for none."""
HALVINGS = 3
BRACKET = 0.99
"""The last bisection looks between this share of the distance and all of it. FMN's ball changes by
at most 0.2 % at its end, so the boundary lies there."""
SIZE = 1.0, 0.01
"""Length of FMN's first and last step (l2)."""
LEAST = 1e-12
"""Norms below are taken for this, so that what is divided by them stays finite."""
SCAN, START, WALK, DESCEND, SHRINK, END = range(6)


@cache
def _annealed(bounds: tuple[float, float], steps: int, device: torch.device) -> Tensor:
    """Values [steps] from the first bound towards the second, by half a cosine."""
    first, last = bounds
    shares = [(1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    return torch.tensor([last + (first - last) * share for share in shares], device=device)


def _norms(images: Tensor) -> Tensor:
    """l2 norms [B]."""
    found: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return found


@dataclass(eq=False)
class Approach(Rows, ABC):
    """The state of each image; tensors are images [B, C, H, W] or numbers [B].

    The caller looks at `point`, asks for the lead of class `rival` over class `own` there (-1 as in
    core.attack.apgd.rivalry_of) and gives what it found to `observe`, until the stage is END.
    """

    clean: Tensor
    point: Tensor
    own: Tensor  # the class to get away from; -1 before the first look
    rival: Tensor
    rivals: Tensor  # [B, RIVALS or fewer]: the strongest other classes at the clean image
    linear: Tensor  # [B, RIVALS or fewer]: distances of their boundaries if logits were linear
    start_of: Tensor  # which of STARTS it is on
    stage: Tensor
    step: Tensor  # looks in this stage
    epsilon: Tensor  # radius of FMN's ball
    nearest: Tensor  # distance of the nearest adversarial image of this descent, inf before
    best: Tensor  # the nearest adversarial image so far
    distance: Tensor  # its distance, inf before there is one
    target: Tensor  # its class, -1 before there is one
    low: Tensor  # SHRINK: a distance at which it was not adversarial

    change: ClassVar[tuple[float, float]] = 0.05, 0.001
    """Share by which FMN's ball first and last shrinks or grows."""

    @classmethod
    def start(cls, x: Tensor, classes: int) -> Self:
        """At the clean images x, of a task with this many classes."""
        numbers = torch.zeros(len(x), device=x.device)
        whole = torch.zeros(len(x), dtype=torch.long, device=x.device)
        rivals = max(1, min(RIVALS, classes - 1))
        return cls(
            clean=x,
            point=x.clone(),
            own=whole - 1,
            rival=whole - 1,
            rivals=whole[:, None].repeat(1, rivals),
            linear=numbers[:, None].repeat(1, rivals),
            start_of=whole.clone(),
            stage=whole.clone(),
            step=whole.clone(),
            epsilon=numbers.clone(),
            nearest=numbers + torch.inf,
            best=x.clone(),
            distance=numbers + torch.inf,
            target=whole - 1,
            low=numbers.clone(),
        )

    @staticmethod
    @abstractmethod
    def length(delta: Tensor) -> Tensor:
        """Norms [B] of perturbations."""

    @staticmethod
    @abstractmethod
    def slant(gradient: Tensor) -> Tensor:
        """Dual norms [B]: how much a function may gain per length of a perturbation."""

    @staticmethod
    @abstractmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        """Points in the balls of radius `epsilon` [B] and in [0, 1], near the given ones; may reuse
        their memory."""

    @staticmethod
    def gaining(gradient: Tensor, gain: Tensor) -> Tensor:
        """Perturbations by which linear functions with these gradients gain this much [B]: the
        smallest in l2, and for l1, whose own would change one pixel beyond its range, too."""
        steepness = gradient.flatten(1).square().sum(1).clamp(min=LEAST)
        return gradient * per_image(gain / steepness)

    def observe(self, lead: Tensor, gradient: Tensor, logits: Tensor, steps: int) -> Tensor:
        """Take in what was seen at `point` and move on; steps: those of FMN, of all starts. Returns
        which images [B] are not right there."""
        before, steepness = self.point, _norms(gradient)
        if not bool((steepness < LARGEST).all()):  # a look costs less than a copy
            gradient = usable(gradient)
            steepness = _norms(gradient)
        fresh = (self.own < 0).nonzero().flatten()
        if len(fresh):
            self._meet(fresh, logits[fresh])
        broken = ~is_right(logits, self.own)
        length = self.length(before - self.clean)
        self._remember(broken, length, logits)
        self.step += 1
        begins = broken & (self.stage == WALK)
        self.stage = torch.where(begins, DESCEND, self.stage)
        self.step = torch.where(begins, 1, self.step)
        self.epsilon = torch.where(begins, length, self.epsilon)
        starts = min(STARTS, steps, self.rivals.shape[1])
        each = steps // starts
        scanning, starting, walking, shrinking = (
            (self.stage == stage).nonzero().flatten() for stage in (SCAN, START, WALK, SHRINK)
        )
        ends = ((self.stage == DESCEND) & (self.step >= each)).nonzero().flatten()
        # Nearly all images descend: all are moved so, the others then by rules of their own.
        self.point = self._descended(broken, length, lead, gradient, steepness, each)
        if len(scanning):
            self._scan(scanning, broken[scanning], lead[scanning], gradient[scanning])
        if len(starting):
            self._set_off(starting, lead[starting], gradient[starting], starts)
        if len(walking):
            self._walk(walking, before[walking], lead[walking], gradient[walking])
        if len(shrinking):
            self._shrink(shrinking, broken[shrinking])
        if len(ends):
            self._turn(ends, self.start_of[ends] + 1, starts)
        return broken

    def _meet(self, rows: Tensor, logits: Tensor) -> None:
        """Settle the class to get away from, and its rivals."""
        own = logits.argmax(1)
        others = logits.scatter(1, own[:, None], -torch.inf)
        self.own[rows] = own
        self.rivals[rows] = others.topk(self.rivals.shape[1], dim=1).indices

    def _remember(self, broken: Tensor, length: Tensor, logits: Tensor) -> None:
        self.nearest = torch.where(broken, length.minimum(self.nearest), self.nearest)
        closer = broken & (length < self.distance)
        self.distance = torch.where(closer, length, self.distance)
        self.target = torch.where(closer, logits.argmax(1), self.target)
        torch.where(per_image(closer), self.point, self.best, out=self.best)

    def _scan(self, rows: Tensor, broken: Tensor, lead: Tensor, gradient: Tensor) -> None:
        """One rival more at the clean image. Images that are broken as they are, because their
        logits are no numbers, end here."""
        linear = lead.abs() / self.slant(gradient).clamp(min=LEAST)
        seen, last = self.step[rows], self.rivals.shape[1]
        self.linear[rows, seen - 1] = linear.nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.rival[rows] = self.rivals[rows, seen.clamp(max=last - 1)]
        self.point[rows] = self.clean[rows]
        over = rows[(seen >= last) & ~broken]
        if len(over):
            self._turn(over, self.start_of[over], STARTS)
        self.stage[rows[broken]] = END

    def _turn(self, rows: Tensor, start: Tensor, starts: int) -> None:
        """To the class of this start [B], or, after the last of them, to the end."""
        self.start_of[rows], self.step[rows] = start, 0
        more = start < starts
        on, over = rows[more], rows[~more]
        nearest = self.linear[on].argsort(dim=1, stable=True).gather(1, start[more, None])
        self.rival[on] = self.rivals[on].gather(1, nearest)[:, 0]
        self.stage[on], self.point[on], self.nearest[on] = START, self.clean[on], torch.inf
        found = self.distance[over].isfinite()
        self.stage[over] = torch.where(found, SHRINK, END)
        self.low[over] = BRACKET * self.distance[over]
        self._halve(over[found])

    def _set_off(self, rows: Tensor, lead: Tensor, gradient: Tensor, starts: int) -> None:
        """The first step towards a class; where its gradient vanishes, on to the next one."""
        flat = gradient.flatten(1).abs().amax(1) == 0
        self.stage[rows], self.step[rows], self.rival[rows] = WALK, 0, -1
        self._stride(rows, self.clean[rows], lead, gradient)
        if len(blind := rows[flat]):
            self._turn(blind, self.start_of[blind] + 1, starts)

    def _walk(self, rows: Tensor, point: Tensor, lead: Tensor, gradient: Tensor) -> None:
        """On from points that are not adversarial yet; at last, FMN begins at the clean image."""
        self._stride(rows, point, lead, gradient)
        rows = rows[self.step[rows] >= WALKS]
        self.stage[rows], self.step[rows], self.point[rows] = DESCEND, 0, self.clean[rows]

    def _stride(self, rows: Tensor, point: Tensor, lead: Tensor, gradient: Tensor) -> None:
        """DeepFool's step from these points."""
        gain = (1 + OVERSHOOT) * lead.abs().maximum(STRIDE * self.slant(gradient))
        self.point[rows] = point.add(self.gaining(gradient, gain)).clamp_(0, 1)

    def _descended(
        self,
        broken: Tensor,
        length: Tensor,
        lead: Tensor,
        gradient: Tensor,
        steepness: Tensor,
        steps: int,
    ) -> Tensor:
        """FMN's step from every point, in its new ball."""
        step = (self.step - 1).clamp(0, steps - 1)
        size, change = (
            _annealed(bounds, steps, lead.device)[step] for bounds in (SIZE, self.change)
        )
        wider = self.epsilon * (1 + change)
        lost = (self.stage == DESCEND) & ~broken & self.nearest.isinf()
        if bool(lost.any()):
            reach = length + lead.abs() / self.slant(gradient).clamp(min=LEAST)
            wider = torch.where(lost, reach, wider)
        smaller = torch.minimum(self.epsilon * (1 - change), self.nearest)
        epsilon = torch.where(broken, smaller, wider)
        self.epsilon = torch.where(self.stage == DESCEND, epsilon, self.epsilon)
        share = size / steepness.clamp(min=LEAST)
        moved = torch.addcmul(self.point, gradient, per_image(share))
        return self.within(moved, self.clean, self.epsilon)

    def _shrink(self, rows: Tensor, broken: Tensor) -> None:
        self.low[rows] = torch.where(broken, self.low[rows], self.epsilon[rows])
        self.stage[rows[self.step[rows] >= HALVINGS]] = END
        self._halve(rows)

    def _halve(self, rows: Tensor) -> None:
        self.epsilon[rows] = (self.low[rows] + self.distance[rows]) / 2
        self.point[rows] = self.within(self.best[rows], self.clean[rows], self.epsilon[rows])


class Linf(Approach):
    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    @staticmethod
    def slant(gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    @staticmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        radius = per_image(epsilon)
        return torch.clamp(point, clean - radius, clean + radius, out=point).clamp_(0, 1)

    @staticmethod
    def gaining(gradient: Tensor, gain: Tensor) -> Tensor:
        size = gain / gradient.flatten(1).abs().sum(1).clamp(min=LEAST)
        return gradient.sign() * per_image(size)


class L2(Approach):
    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return _norms(delta)

    @staticmethod
    def slant(gradient: Tensor) -> Tensor:
        return _norms(gradient)

    @staticmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        """Shortened, then cut off at the range, which shortens it further."""
        delta = point.sub_(clean)
        share = (epsilon / delta.flatten(1).norm(dim=1).clamp(min=LEAST)).clamp(max=1)
        return torch.addcmul(clean, delta, per_image(share)).clamp_(0, 1)


class L1(Approach):
    change = 0.15, 0.001
    """DeepFool's steps, those of l2, end far away in l1."""

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    @staticmethod
    def slant(gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().amax(1)

    @staticmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        return project_l1(point, clean, epsilon)


APPROACHES: dict[Norm, type[Approach]] = {"linf": Linf, "l2": L2, "l1": L1}

"""The smallest perturbation that changes a prediction: FMN (Pintor et al. 2021) from DeepFool
(Moosavi-Dezfooli et al. 2016), in l-inf, l2 and l1.

An image goes through four stages. SCAN: among the strongest other classes at the clean image, whose
boundary would be nearest if logits were linear? That choice decides how near FMN comes: from the
strongest class alone it ends 8 % further away, from the nearest of nine as near as from that of all
classes. WALK: DeepFool's steps until the prediction changes. DESCEND: FMN, in a ball that shrinks
while its points are adversarial and grows while they are not. SHRINK: bisection on the way from the
clean image to the nearest point found.

Every point is looked at before it counts: a distance is an upper bound, never too small. Like the
trajectory of APGD, an `Approach` needs no random numbers and never calls the model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor

from core.attack.apgd import is_right
from core.attack.projection import per_image, project_l1, usable
from core.attack.rows import Rows
from core.config.strength import Norm

RIVALS = 9
"""Classes among which the first step chooses; more cost a gradient each and change nothing."""
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
CHANGE = 0.05, 0.001
"""Share by which FMN's ball first and last shrinks or grows."""
LEAST = 1e-12
"""Norms below are taken for this, so that what is divided by them stays finite."""
SCAN, WALK, DESCEND, SHRINK, END = range(5)


@cache
def _annealed(bounds: tuple[float, float], steps: int, device: torch.device) -> Tensor:
    """Values [steps] from the first bound towards the second, by half a cosine."""
    first, last = bounds
    shares = [(1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    return torch.tensor([last + (first - last) * share for share in shares], device=device)


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
    slope: Tensor  # gradient of the lead of the nearest rival so far
    lead: Tensor  # its lead, below 0
    linear: Tensor  # distance of its boundary if logits were linear
    stage: Tensor
    step: Tensor  # looks in this stage
    epsilon: Tensor  # radius of FMN's ball
    best: Tensor  # the nearest adversarial image so far
    distance: Tensor  # its distance, inf before there is one
    target: Tensor  # its class, -1 before there is one
    low: Tensor  # SHRINK: a distance at which it was not adversarial

    @classmethod
    def start(cls, x: Tensor, classes: int) -> Self:
        """At the clean images x, of a task with this many classes."""
        numbers = torch.zeros(len(x), device=x.device)
        whole = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(
            clean=x,
            point=x.clone(),
            own=whole - 1,
            rival=whole - 1,
            rivals=whole[:, None].repeat(1, max(1, min(RIVALS, classes - 1))),
            slope=torch.zeros_like(x),
            lead=numbers.clone(),
            linear=numbers + torch.inf,
            stage=whole.clone(),
            step=whole.clone(),
            epsilon=numbers.clone(),
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
        """Take in what was seen at `point` and move on; steps: those of FMN. Returns which images
        [B] are not right there."""
        gradient, before = usable(gradient), self.point
        fresh = (self.own < 0).nonzero().flatten()
        if len(fresh):
            self._meet(fresh, logits[fresh])
        broken = ~is_right(logits, self.own)
        length = self.length(before - self.clean)
        self._remember(broken & (length < self.distance), length, logits)
        self.step += 1
        begins = broken & (self.stage == WALK)
        self.stage = torch.where(begins, DESCEND, self.stage)
        self.step = torch.where(begins, 1, self.step)
        self.epsilon = torch.where(begins, length, self.epsilon)
        scanning, walking, shrinking = (
            (self.stage == stage).nonzero().flatten() for stage in (SCAN, WALK, SHRINK)
        )
        # Nearly all images descend: all are moved so, the others then by rules of their own.
        self.point = self._descended(broken, length, lead, gradient, steps)
        if len(scanning):
            self._scan(scanning, broken[scanning], lead[scanning], gradient[scanning])
        if len(walking):
            self._walk(walking, before[walking], lead[walking], gradient[walking])
        if len(shrinking):
            self._shrink(shrinking, broken[shrinking])
        ends = ((self.stage == DESCEND) & (self.step >= steps)).nonzero().flatten()
        if len(ends):
            self._finish(ends)
        return broken

    def _meet(self, rows: Tensor, logits: Tensor) -> None:
        """Settle the class to get away from, and its rivals."""
        own = logits.argmax(1)
        others = logits.scatter(1, own[:, None], -torch.inf)
        self.own[rows] = own
        self.rivals[rows] = others.topk(self.rivals.shape[1], dim=1).indices

    def _remember(self, closer: Tensor, length: Tensor, logits: Tensor) -> None:
        self.distance = torch.where(closer, length, self.distance)
        self.target = torch.where(closer, logits.argmax(1), self.target)
        torch.where(per_image(closer), self.point, self.best, out=self.best)

    def _scan(self, rows: Tensor, broken: Tensor, lead: Tensor, gradient: Tensor) -> None:
        """One rival more at the clean image; after the last, a step towards the nearest. It ends
        here for images whose gradients vanish, and for those that are broken as they are (their
        logits are no numbers)."""
        linear = lead.abs() / self.slant(gradient).clamp(min=LEAST)
        nearer = linear < self.linear[rows]
        self.linear[rows] = torch.where(nearer, linear, self.linear[rows])
        self.lead[rows] = torch.where(nearer, lead, self.lead[rows])
        self.slope[rows] = torch.where(per_image(nearer), gradient, self.slope[rows])
        seen, last = self.step[rows], self.rivals.shape[1]
        self.rival[rows] = self.rivals[rows, seen.clamp(max=last - 1)]
        self.point[rows] = self.clean[rows]
        over = seen >= last
        blind = self.slope[rows].flatten(1).abs().amax(1) == 0
        self.stage[rows[broken | (over & blind)]] = END
        rows = rows[over & ~blind & ~broken]
        self.stage[rows], self.step[rows], self.rival[rows] = WALK, 0, -1
        self._stride(rows, self.clean[rows], self.lead[rows], self.slope[rows])

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
        self, broken: Tensor, length: Tensor, lead: Tensor, gradient: Tensor, steps: int
    ) -> Tensor:
        """FMN's step from every point, in its new ball."""
        step = (self.step - 1).clamp(0, steps - 1)
        size, change = (_annealed(bounds, steps, lead.device)[step] for bounds in (SIZE, CHANGE))
        reach = length + lead.abs() / self.slant(gradient).clamp(min=LEAST)
        wider = torch.where(self.distance.isfinite(), self.epsilon * (1 + change), reach)
        smaller = torch.minimum(self.epsilon * (1 - change), self.distance)
        epsilon = torch.where(broken, smaller, wider)
        self.epsilon = torch.where(self.stage == DESCEND, epsilon, self.epsilon)
        share = size / gradient.flatten(1).norm(dim=1).clamp(min=LEAST)
        moved = torch.addcmul(self.point, gradient, per_image(share))
        return self.within(moved, self.clean, self.epsilon)

    def _finish(self, rows: Tensor) -> None:
        """After FMN: the bisection begins, where there is something to shrink."""
        found = self.distance[rows].isfinite()
        self.stage[rows] = torch.where(found, SHRINK, END)
        self.step[rows] = 0
        self.low[rows] = BRACKET * self.distance[rows]
        self._halve(rows[found])

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
        found: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return found

    @staticmethod
    def slant(gradient: Tensor) -> Tensor:
        return L2.length(gradient)

    @staticmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        """Shortened, then cut off at the range, which shortens it further."""
        delta = point.sub_(clean)
        share = (epsilon / delta.flatten(1).norm(dim=1).clamp(min=LEAST)).clamp(max=1)
        return torch.addcmul(clean, delta, per_image(share)).clamp_(0, 1)


class L1(Approach):
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

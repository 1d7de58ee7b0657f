"""The smallest perturbation that changes a prediction: FMN (Pintor et al. 2021), started by
DeepFool (Moosavi-Dezfooli et al. 2016), in l-inf, l2 and l1.

An image goes through five stages. SCAN ranks the strongest other classes at the clean image by the
distance of their boundaries, as if logits were linear. Then, for each of the nearest in turn: START
and WALK take DeepFool's steps until the prediction changes, and DESCEND runs FMN in a ball that
shrinks while its points are adversarial and grows while they are not. SHRINK bisects the line from
the clean image to the nearest point found.

On two networks of 32 and 64 classes, 100 steps towards the nearest class in l-inf end 1.2 to 2.4 %
further away than the best of all attacks, 50 steps towards each of the two nearest 0.3 to 0.4 %.

A point counts only once the model has misclassified it, so a distance is always an upper bound.
Like APGD's `Trajectory`, an `Approach` needs no random numbers and never calls the model.
What depends on the norm is in core.attack.approaches.
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
from core.attack.projection import LARGEST, per_image, usable
from core.attack.rows import Rows
from core.config.fmn import RIVALS, descents
from core.config.strength import Norm

WALKS = 50
"""Maximum number of DeepFool's steps; two or three are enough for most images."""
OVERSHOOT = 0.02
"""How far DeepFool steps beyond the linear model's boundary, as a share of the distance to it."""
STRIDE = 1e-5
"""Shortest step of DeepFool: at a point on the boundary, the linear model's step has length 0."""
HALVINGS = 3
BRACKET = 0.99
"""SHRINK searches between this share of the distance and all of it. FMN's ball changes by at most
0.2 % per step at its end, so the boundary lies in between."""
LEAST = 1e-12
"""Norms below this are replaced by it, so that it is safe to divide by them."""
SCAN, START, WALK, DESCEND, SHRINK, END = range(6)


@cache
def _annealed(bounds: tuple[float, float], steps: int, device: torch.device) -> Tensor:
    """Values [steps] from the first bound towards the second, by half a cosine."""
    first, last = bounds
    shares = [(1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    return torch.tensor([last + (first - last) * share for share in shares], device=device)


def l2_norms(images: Tensor) -> Tensor:
    """l2 norms [B]."""
    found: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return found


@dataclass(eq=False)
class Approach(Rows, ABC):
    """The state of each image; tensors are images [B, C, H, W] or numbers [B].

    Until `stage` is END, the caller computes the lead of class `rival` over class `own` at `point`
    (core.attack.apgd.rivalry_of, which also explains -1) and passes it to `observe`.
    """

    clean: Tensor
    point: Tensor
    own: Tensor  # class predicted at the clean image; -1 until that is known
    rival: Tensor
    rivals: Tensor  # [B, RIVALS or fewer]: the strongest other classes at the clean image
    linear: Tensor  # [B, RIVALS or fewer]: distances of their boundaries if logits were linear
    start_of: Tensor  # index of the current descent, from 0
    stage: Tensor
    step: Tensor  # points observed in this stage
    epsilon: Tensor  # radius of FMN's ball
    nearest: Tensor  # smallest adversarial distance of this descent, inf if none yet
    best: Tensor  # the nearest adversarial image so far
    distance: Tensor  # its distance, inf if none yet
    target: Tensor  # its predicted class, -1 if none yet
    low: Tensor  # SHRINK: lower end of the bracket, where the prediction has not changed
    trend: Tensor  # weighted mean of the gradients' directions; empty without momentum
    blind: Tensor  # whether its gradient was zero when clean, or not finite before a change

    change: ClassVar[tuple[float, float]] = 0.15, 0.001
    """Share by which FMN's ball shrinks or grows in its first and in its last step."""
    size: ClassVar[tuple[float, float]] = 1.0, 0.01
    """Length (l2) of FMN's first and last step, in `unit`."""
    momentum: ClassVar[float] = 0.0
    """Weight of earlier gradients' directions in that of a step of FMN."""
    norm: ClassVar[Norm]

    @classmethod
    def start(cls, x: Tensor, classes: int) -> Self:
        """The initial state at clean images x [B, C, H, W] of a task with `classes` classes."""
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
            trend=torch.zeros_like(x if cls.momentum else x[:, :0]),
            blind=whole > 0,
        )

    @staticmethod
    @abstractmethod
    def length(delta: Tensor) -> Tensor:
        """Norms [B] of perturbations; may overwrite them."""

    @staticmethod
    @abstractmethod
    def slant(gradient: Tensor) -> Tensor:
        """Dual norms [B]: the most that a linear function gains per unit of perturbation."""

    def unit(self, epsilon: Tensor) -> Tensor:
        """What `size` counts in, for balls of radius `epsilon`, broadcastable to [B]."""
        return epsilon.new_ones(())

    @staticmethod
    @abstractmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        """The points moved into the balls of radius `epsilon` [B] and into [0, 1]; may overwrite
        `point`."""

    @staticmethod
    def gaining(gradient: Tensor, gain: Tensor) -> Tensor:
        """Perturbations by which linear functions with these gradients gain `gain` [B], smallest in
        l2. Used for l1 too, since l1's smallest would push a single pixel beyond its range."""
        steepness = gradient.flatten(1).square().sum(1).clamp(min=LEAST)
        return gradient * per_image(gain / steepness)

    def observe(self, lead: Tensor, gradient: Tensor, logits: Tensor, steps: int) -> Tensor:
        """Take in lead [B], its gradient and the logits at `point`, and set the next `point`.
        steps: FMN's, over all descents. Returns which images [B] were misclassified at `point`."""
        steepness, unusable = l2_norms(gradient), None
        if not bool((steepness < LARGEST).all()):  # checking costs less than a copy
            unusable = ~gradient.flatten(1).sum(1).isfinite()
            gradient = usable(gradient)
            steepness = l2_norms(gradient)
        fresh = (self.own < 0).nonzero().flatten()
        if len(fresh):
            self._meet(fresh, logits[fresh])
        broken = ~is_right(logits, self.own)
        if len(fresh):
            self.blind[fresh] = ~broken[fresh] & (gradient[fresh].flatten(1).abs().amax(1) == 0)
        if unusable is not None:
            self.blind |= unusable & ~broken
        length = self.length(self.point - self.clean)
        self._remember(broken, length, logits)
        self.step += 1
        starts = descents(self.norm, steps, self.rivals.shape[1])
        each = steps // starts
        if bool(((self.stage == DESCEND) & (self.step < each)).all()):  # true in most steps
            self._descend(broken, length, lead, gradient, steepness, each)
            return broken
        begins = broken & (self.stage == WALK)
        self.stage = torch.where(begins, DESCEND, self.stage)
        self.step = torch.where(begins, 1, self.step)
        self.epsilon = torch.where(begins, length, self.epsilon)
        scanning, starting, walking, shrinking = (
            (self.stage == stage).nonzero().flatten() for stage in (SCAN, START, WALK, SHRINK)
        )
        ends = ((self.stage == DESCEND) & (self.step >= each)).nonzero().flatten()
        before, radius, descending = self.point[walking], self.epsilon, self.stage == DESCEND
        if bool(descending.any()):
            # Nearly all images are in this stage: move all, then overwrite those in other stages.
            self._descend(broken, length, lead, gradient, steepness, each)
            self.epsilon = torch.where(descending, self.epsilon, radius)
        if len(scanning):
            self._scan(scanning, broken[scanning], lead[scanning], gradient[scanning])
        if len(starting):
            self._set_off(starting, lead[starting], gradient[starting], starts)
        if len(walking):
            self._walk(walking, before, lead[walking], gradient[walking])
        if len(shrinking):
            self._shrink(shrinking, broken[shrinking])
        if len(ends):
            self._turn(ends, self.start_of[ends] + 1, starts)
        return broken

    def _meet(self, rows: Tensor, logits: Tensor) -> None:
        """Set the predicted class and its rivals from the logits at the clean images."""
        own = logits.argmax(1)
        others = logits.scatter(1, own[:, None], -torch.inf)
        self.own[rows] = own
        self.rivals[rows] = others.topk(self.rivals.shape[1], dim=1).indices

    def _remember(self, broken: Tensor, length: Tensor, logits: Tensor) -> None:
        self.nearest = torch.where(broken, length.minimum(self.nearest), self.nearest)
        closer = (broken & (length < self.distance)).nonzero().flatten()
        self.distance[closer], self.target[closer] = length[closer], logits[closer].argmax(1)
        self.best[closer] = self.point[closer]

    def _scan(self, rows: Tensor, broken: Tensor, lead: Tensor, gradient: Tensor) -> None:
        """Store the linear distance of one rival and go on to the next. An image that is
        misclassified already, which only invalid logits can cause, ends here."""
        linear = lead.abs() / self.slant(gradient).clamp(min=LEAST)
        seen, last = self.step[rows], self.rivals.shape[1]
        self.linear[rows, seen - 1] = linear.nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.rival[rows] = self.rivals[rows, seen.clamp(max=last - 1)]
        self.point[rows] = self.clean[rows]
        over = rows[(seen >= last) & ~broken]
        if len(over):
            self._turn(over, self.start_of[over], starts=1)  # the first descent
        self.stage[rows[broken]] = END

    def _turn(self, rows: Tensor, start: Tensor, starts: int) -> None:
        """Begin the descents of index `start` [B]; rows that have done the last go to SHRINK, or to
        END if they found no adversarial image."""
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
        """The first step towards a class; rows whose gradient is 0 go on to the next class."""
        flat = gradient.flatten(1).abs().amax(1) == 0
        self.stage[rows], self.step[rows], self.rival[rows] = WALK, 0, -1
        self._stride(rows, self.clean[rows], lead, gradient)
        if len(blind := rows[flat]):
            self._turn(blind, self.start_of[blind] + 1, starts)

    def _walk(self, rows: Tensor, point: Tensor, lead: Tensor, gradient: Tensor) -> None:
        """Step on from points that are not adversarial yet; after WALKS steps, FMN begins at the
        clean image instead."""
        self._stride(rows, point, lead, gradient)
        rows = rows[self.step[rows] >= WALKS]
        self.stage[rows], self.step[rows], self.point[rows] = DESCEND, 0, self.clean[rows]

    def _stride(self, rows: Tensor, point: Tensor, lead: Tensor, gradient: Tensor) -> None:
        """Move rows by DeepFool's step from these points."""
        gain = (1 + OVERSHOOT) * lead.abs().maximum(STRIDE * self.slant(gradient))
        self.point[rows] = point.add(self.gaining(gradient, gain)).clamp_(0, 1)

    def _descend(
        self,
        broken: Tensor,
        length: Tensor,
        lead: Tensor,
        gradient: Tensor,
        steepness: Tensor,
        steps: int,
    ) -> None:
        """A step of FMN, into balls of the updated radius."""
        step = (self.step - 1).clamp(0, steps - 1)
        size, change = (_annealed(b, steps, lead.device)[step] for b in (self.size, self.change))
        wider = self.epsilon * (1 + change)
        lost = self.nearest == torch.inf  # and so not broken at this point
        if bool(lost.any()):
            reach = length + lead.abs() / self.slant(gradient).clamp(min=LEAST)
            wider = torch.where(lost, reach, wider)
        smaller = torch.minimum(self.epsilon * (1 - change), self.nearest)
        self.epsilon = torch.where(broken, smaller, wider)
        if self.momentum:
            gradient = self._smooth(gradient, steepness)
            steepness = l2_norms(gradient)
        share = size * self.unit(self.epsilon) / steepness.clamp(min=LEAST)
        self.point.addcmul_(gradient, per_image(share))
        self.point = self.within(self.point, self.clean, self.epsilon)

    def _smooth(self, gradient: Tensor, steepness: Tensor) -> Tensor:
        """The mean of the directions of a descent's gradients up to this one."""
        kept = torch.where(self.step > 1, self.momentum, 0.0)
        share = (1 - self.momentum) / steepness.clamp(min=LEAST)
        self.trend.mul_(per_image(kept)).addcmul_(gradient, per_image(share))
        return self.trend

    def _shrink(self, rows: Tensor, broken: Tensor) -> None:
        self.low[rows] = torch.where(broken, self.low[rows], self.epsilon[rows])
        self.stage[rows[self.step[rows] >= HALVINGS]] = END
        self._halve(rows)

    def _halve(self, rows: Tensor) -> None:
        self.epsilon[rows] = (self.low[rows] + self.distance[rows]) / 2
        self.point[rows] = self.within(self.best[rows], self.clean[rows], self.epsilon[rows])

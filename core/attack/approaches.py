"""What depends on the norm in the search for the nearest other class: lengths, slopes, balls,
steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.attack.minimal import LEAST, Approach, l2_norms
from core.attack.projection import per_image, soften_l1
from core.config.strength import Norm


class Linf(Approach):
    norm = "linf"
    size = 5.0, 0.05

    def unit(self, epsilon: Tensor) -> Tensor:
        """From the ball's centre to its corners (l2); a ball of radius 1 holds all images. Steps of
        a fixed length that suits 32 pixels are too long for 224, where the ball is smaller (l2)
        although it has more dimensions."""
        return epsilon.clamp(max=1) * math.sqrt(self.clean[0].numel())

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.abs_().flatten(1).amax(1)  # 15 times as fast as vector_norm on a CPU

    @staticmethod
    def slant(gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    @staticmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        radius = per_image(epsilon)
        return point.clamp_(clean - radius, clean + radius).clamp_(0, 1)

    @staticmethod
    def gaining(gradient: Tensor, gain: Tensor) -> Tensor:
        size = gain / gradient.flatten(1).abs().sum(1).clamp(min=LEAST)
        return gradient.sign() * per_image(size)


class L2(Approach):
    norm = "l2"

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return l2_norms(delta)

    @staticmethod
    def slant(gradient: Tensor) -> Tensor:
        return l2_norms(gradient)

    @staticmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        """Scaled into the ball, then clipped to [0, 1], which can only shorten the perturbation."""
        delta = point.sub_(clean)
        share = (epsilon / delta.flatten(1).norm(dim=1).clamp(min=LEAST)).clamp(max=1)
        return torch.addcmul(clean, delta, per_image(share)).clamp_(0, 1)


class L1(Approach):
    norm = "l1"
    change = 0.4, 0.001
    """The largest: DeepFool's steps are shortest in l2, and may be ten times too long in l1."""
    size = 2.0, 0.01
    momentum = 0.5

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    @staticmethod
    def slant(gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().amax(1)

    @staticmethod
    def within(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        return soften_l1(point, clean, epsilon)


APPROACHES: dict[Norm, type[Approach]] = {one.norm: one for one in (Linf, L2, L1)}

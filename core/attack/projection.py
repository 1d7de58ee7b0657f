"""Threat models l-inf, l2 and l1: the exact projection onto the intersection of ball and pixel
range, and the direction of an attack's step.

Images are [B, C, H, W] in [0, 1], strengths [B]. Projecting onto the ball and then clipping to the
range would end inside both, but not at the nearest point: for l1 in 3 x 224 x 224 dimensions most
of the budget would be lost (Croce & Hein 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEW = 0.1
"""Share of the pixels among which `soften_l1` looks first for those that move."""


def per_image(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1], to scale images."""
    return values.view(-1, 1, 1, 1)


def project_l2(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
    """The nearest point with |z - clean|_2 <= epsilon and z in [0, 1].

    The optimality conditions give z - clean = clip(t (point - clean)) for one t in [0, 1] per
    image. The squared length of that is piecewise linear in t^2, so t is found without iterating.
    """
    moved, room = _moves(point, clean)
    size = moved.abs()
    turns = torch.cat([size.square().sum(1, keepdim=True), -size.square()], dim=1)
    ends = torch.where(size > 0, (room / size).square(), 0)
    knots = torch.cat([torch.zeros_like(ends[:, :1]), ends], dim=1)
    scale = _crossing(knots, turns, epsilon.double().square()).sqrt()[:, None]
    outside = torch.minimum(size, room).square().sum(1) > epsilon.double().square()
    scale = torch.where(outside[:, None], scale, 1)
    return _back(torch.minimum(scale * size, room), moved, clean)


def project_l1(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
    """The nearest point with |z - clean|_1 <= epsilon and z in [0, 1].

    z - clean = sign(d) clip(|d| - shift, 0, room) with d = point - clean and one shift >= 0 per
    image; its length is piecewise linear in the shift (Croce & Hein 2021, section 3).
    """
    moved, room = _moves(point, clean)
    size = moved.abs()
    shift = _shift(size, room, epsilon)[:, None]
    return _back(torch.minimum((size - shift).clamp(min=0), room), moved, clean)


def soften_l1(point: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
    """The point of `project_l1`, rounded to float32 at every step. Few pixels move in l1: if no
    more than a share FEW does, the largest |d| determine the shift, and this takes a seventh of the
    time."""
    delta = point - clean
    moved, start = delta.flatten(1), clean.flatten(1)
    size, places = moved.abs().topk(math.ceil(FEW * moved.shape[1]), sorted=False)
    start = start.gather(1, places)
    room = torch.where(moved.gather(1, places) > 0, 1 - start, start)
    shift = _shift(size.double(), room.double(), epsilon)
    if len(dense := (shift < size.amin(1)).nonzero().flatten()):
        moves, room = _moves(point[dense], clean[dense])
        shift[dense] = _shift(moves.abs(), room, epsilon[dense])
    bound = per_image(shift.to(delta.dtype))
    return delta.sub_(delta.clamp(-bound, bound)).add_(clean).clamp_(0, 1)


def _shift(size: Tensor, room: Tensor, epsilon: Tensor) -> Tensor:
    """The shift [B] of `project_l1`, 0 inside the ball; size: |d| [B, D], room as `_moves` returns
    it."""
    largest = size.amax(1, keepdim=True)
    # As the shift falls from its largest value, a pixel starts to move at |d|, and reaches the end
    # of the pixel range at |d| - room.
    knots = torch.cat([largest - size, largest - size + room], dim=1)
    turns = torch.cat([torch.ones_like(size), -torch.ones_like(size)], dim=1)
    shift = largest[:, 0] - _crossing(knots, turns, epsilon.double())
    outside = torch.minimum(size, room).sum(1) > epsilon.double()
    return torch.where(outside, shift, 0)


def _moves(point: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """How far each pixel has moved, and how far the range lets it move in that direction; float64
    [B, D]."""
    start = clean.flatten(1).double()
    moved = point.flatten(1).double() - start
    return moved, torch.where(moved > 0, 1 - start, start)


def _back(size: Tensor, moved: Tensor, clean: Tensor) -> Tensor:
    """Images with pixels moved by `size` from the clean ones, in the directions of `moved`."""
    delta = (size * moved.sign()).view(clean.shape)
    return (clean.double() + delta).to(clean.dtype)


def _crossing(knots: Tensor, turns: Tensor, target: Tensor) -> Tensor:
    """Where increasing, piecewise linear functions [B] reach `target` [B]. Each is 0 up to its
    smallest knot; at the knots [B, K], unsorted, its slope changes by `turns` [B, K]."""
    knots, order = knots.sort(dim=1)
    slopes = turns.gather(1, order).cumsum(dim=1)
    steps = (slopes[:, :-1] * knots.diff(dim=1)).cumsum(dim=1)
    values = torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1)
    place = (torch.searchsorted(values, target[:, None]) - 1).clamp_(min=0)
    missing = target - values.gather(1, place)[:, 0]
    slope = slopes.gather(1, place)[:, 0]
    beyond = torch.where(slope > 0, missing / slope, 0)
    return knots.gather(1, place)[:, 0] + beyond


LARGEST = 1e15
"""Entries of a gradient are clipped to this, so that the sum of their squares fits in float32."""


def usable(gradient: Tensor) -> Tensor:
    """The gradient with NaN replaced by 0 and large entries clipped. A single NaN would make the
    whole step NaN, which no projection can repair."""
    return gradient.nan_to_num(nan=0.0).clamp_(-LARGEST, LARGEST)


def direction_linf(gradient: Tensor) -> Tensor:
    """Signs of the gradient, 0 where it is 0 or NaN; overwrites it."""
    return gradient.nan_to_num_(nan=0.0).sign_()


def direction_l2(gradient: Tensor) -> Tensor:
    """The gradient, scaled to length 1 (0 where it vanishes)."""
    gradient = usable(gradient)
    length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / per_image(length)


def direction_l1(gradient: Tensor, share: Tensor) -> Tensor:
    """Signs of the largest entries of the gradient, a share [B] of them, scaled to l1 norm 1."""
    size = usable(gradient).flatten(1).abs()
    count = size.shape[1]
    place = ((1 - share) * count).long().clamp(0, count - 1)
    threshold = size.sort(dim=1).values.gather(1, place[:, None])
    signs = torch.where(size >= threshold, gradient.flatten(1).sign(), 0)
    length = signs.abs().sum(1, keepdim=True).clamp(min=1)
    return (signs / length).view(gradient.shape)

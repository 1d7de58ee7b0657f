"""Gradients that are no help: NaN, infinite, too large or zero. No attack leaves the ball or the
numbers for them, other images do not notice, and images that were attacked blindly are counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.attack.apgd import gradient_of, is_right, run_apgd
from core.attack.projection import usable
from core.data.splits import Split
from core.evaluation import autoattack, queue
from core.store.files import write_atomic

NAN, INF = math.nan, math.inf
BALLS = {"linf": (0.05, INF), "l2": (0.3, 2.0), "l1": (1.0, 1.0)}
"""Norm -> (strength, order)."""
IMAGES = 12


class _Poison(torch.autograd.Function):
    """Passes images on; overwrites entries of their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, where: Tensor, value: float) -> Tensor:
        ctx.save_for_backward(where)
        ctx.value = value
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (where,) = ctx.saved_tensors
        return torch.where(where, ctx.value, gradient), None, None


class Poisoned(nn.Module):
    """A hilly landscape in which gradients of bright images have bad entries; keeps what it saw."""

    def __init__(self, seed: int, value: float, share: float) -> None:
        super().__init__()
        self.inner, self.value = tiny.Wavy(seed), value
        generator = torch.Generator().manual_seed(seed)
        self.bad = torch.rand(3, 4, 4, generator=generator) < share
        self.bad[0, 0, 0] = True
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        bright = x.detach().flatten(1).mean(1) > 0.5
        where = bright.view(-1, 1, 1, 1) & self.bad
        logits: Tensor = self.inner(_Poison.apply(x, where, self.value))
        return logits


def landscape(seed: int, value: float = 0.0, share: float = 0.0) -> tuple[Poisoned, Split]:
    """Every other image is bright, and most are right. Far from both ends of the pixel range and
    from one another: each point that the model saw belongs to the nearest image."""
    chance = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (IMAGES, 3, 4, 4), dtype=torch.uint8, generator=chance)
    pixels += torch.where(torch.arange(IMAGES) % 2 > 0, 180, 15).view(-1, 1, 1, 1).byte()
    model = Poisoned(seed, value, share)
    labels = model(pixels / 255).argmax(1)
    model.seen.clear()
    return model, Split(pixels, torch.where(torch.arange(IMAGES) > 9, (labels + 1) % 4, labels))


def assert_inside(points: Tensor, clean: Tensor, norm: str) -> None:
    """Every point [P, ...] lies in the ball of one of the images, and in [0, 1]."""
    strength, order = BALLS[norm]
    assert bool(points.isfinite().all())
    assert float(points.min()) >= 0 and float(points.max()) <= 1
    apart = (points[:, None] - clean[None]).flatten(2).double()
    far = torch.linalg.vector_norm(apart, ord=order, dim=2).amin(1)
    assert float(far.max()) <= strength * (1 + 1e-5) + 1e-6


bad_values = st.sampled_from([NAN, INF, -INF, 1e25])


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("mode", ["exact", "fast"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), value=bad_values, share=st.sampled_from([0.0, 0.3, 1.0]))
def test_a_search_stays_among_the_numbers_and_counts_who_was_attacked_blindly(
    mode: str, norm: str, seed: int, value: float, share: float
) -> None:
    model, split = landscape(seed, value, share)
    healthy, _ = landscape(seed)
    strengths = [BALLS[norm][0] * i / 3 for i in range(4)]
    how: Any = {"steps": 3, "batch": 6, "device": tiny.CPU, "norm": norm, "mode": mode}
    found = queue.search(model, split, strengths, **how)
    clean, _ = split.batch(torch.arange(IMAGES), tiny.CPU)
    assert_inside(torch.cat(model.seen), clean, norm)
    reference = queue.search(healthy, split, strengths, **how)
    dark = np.arange(IMAGES) % 2 == 0
    assert found.critical[dark].tolist() == reference.critical[dark].tolist()
    assert ((found.critical > 0) == (reference.critical > 0)).all()
    right_and_bright = int((found.critical[~dark] > 0).sum())
    assert reference.zero_gradient_images == 0 < right_and_bright
    assert found.zero_gradient_images == (0 if math.isfinite(value) else right_and_bright)


@pytest.mark.parametrize("norm", BALLS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), value=bad_values, share=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_training_attack_stays_among_the_numbers(
    norm: str, seed: int, value: float, share: float
) -> None:
    (model, split), (healthy, _) = landscape(seed, value, share), landscape(seed)
    x, y = split.batch(torch.arange(IMAGES), tiny.CPU)
    how: Any = {"epsilon": BALLS[norm][0], "steps": 4, "norm": norm}
    best, *_ = run_apgd(model, x, y, **how)
    assert_inside(torch.cat([best, *model.seen]), x, norm)
    assert torch.equal(best[::2], run_apgd(healthy, x, y, **how)[0][::2])


@pytest.mark.parametrize("value", [1e25, -3e38])
def test_a_gradient_whose_square_overflows_still_moves_the_image(value: float) -> None:
    model, split = landscape(3, value, share=1.0)
    x, y = split.batch(torch.arange(IMAGES), tiny.CPU)
    run_apgd(model, x, y, epsilon=0.3, steps=1, norm="l2")
    moved = (model.seen[1] - x).flatten(1).norm(dim=1)
    assert moved.tolist() == pytest.approx([0.3] * IMAGES, rel=1e-3)


class Later(nn.Module):
    """Right everywhere; its gradient is finite at the clean, grey images only."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        moved = (mean - 128 / 255).abs().detach() > 1e-6
        mean = _Poison.apply(mean, moved, NAN)
        return torch.stack([2 - mean, mean], dim=1)


@pytest.mark.parametrize("norm", BALLS)
def test_a_gradient_that_is_lost_on_the_way_counts_once(norm: str) -> None:
    split = Split(torch.full((7, 3, 4, 4), 128, dtype=torch.uint8), torch.zeros(7).long())
    strengths = [BALLS[norm][0] * i / 3 for i in range(4)]
    how: Any = {"steps": 4, "batch": 3, "device": tiny.CPU, "norm": norm}
    found = queue.search(Later(), split, strengths, **how)
    assert found.critical.tolist() == [4] * 7 and found.zero_gradient_images == 7


class Abyss(nn.Module):
    """No numbers below a brightness of 0.4; above, the loss rises the darker an image is."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        logits = torch.stack([10 * mean, 2 - mean], dim=1)
        return torch.where(mean[:, None] < 0.4, NAN, logits)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_training_attack_goes_on_after_a_loss_that_is_no_number(norm: str) -> None:
    """It begins with a step over the edge, comes back to the best point, and climbs on in smaller
    steps; the point it returns has a loss."""
    x, y = torch.full((2, 3, 4, 4), 0.46), torch.zeros(2, dtype=torch.long)
    strength = {"linf": 0.1, "l2": 0.7}[norm]
    best, *_ = run_apgd(Abyss(), x, y, epsilon=strength, steps=12, norm=norm)
    loss = F.cross_entropy(Abyss()(best), y, reduction="none")
    assert bool(loss.isfinite().all())
    assert bool((loss > F.cross_entropy(Abyss()(x), y)).all())


numbers = st.sampled_from([NAN, INF, -INF, 0.0, 1.0, -2.0, 3e38])


@settings(max_examples=300)
@given(logits=st.lists(numbers, min_size=2, max_size=4), data=st.data())
def test_right_is_what_softmax_gives_the_largest_probability(
    logits: list[float], data: st.DataObject
) -> None:
    """A probability that is no number makes no class the right one, wherever the label is."""
    label = data.draw(st.integers(0, len(logits) - 1))
    row = torch.tensor([logits])
    chances = row.double().softmax(1)[0]
    expected = bool(chances.isfinite().all()) and int(row.argmax()) == label
    assert bool(is_right(row, torch.tensor([label]))) == expected


class Blackbox(nn.Module):
    """Bright images break, which a search by queries finds; gradients are NaN."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        mean = _Poison.apply(mean, torch.ones_like(mean, dtype=torch.bool), NAN)
        level = 1 - 100 * (mean - 128 / 255)
        return torch.stack([level, *(0 * level - i for i in range(3))], dim=1)


@pytest.mark.parametrize("norm", BALLS)
def test_autoattack_does_not_stop_at_a_point_that_is_no_image(norm: str, tmp_path: Path) -> None:
    """A step along NaN leads to no image: the model errs there, which ends the ensemble's attacks,
    and the image would stay right. Square, which needs no gradient, finds what breaks it."""
    pytest.importorskip("pyautoattack")
    split = Split(torch.full((2, 3, 8, 8), 128, dtype=torch.uint8), torch.zeros(2).long())
    strengths = [0.0, {"linf": 0.1, "l2": 1.0, "l1": 12.0}[norm]]
    how: Any = {"batch": 2, "device": tiny.CPU, "norm": norm}

    def first() -> queue.Search:
        return queue.search(Blackbox(), split, strengths, steps=2, **how)

    assert first().critical.tolist() == [2, 2] and first().zero_gradient_images == 2
    found = autoattack.evaluate(
        first,
        Blackbox(),
        split,
        strengths,
        ledger=autoattack.Ledger(tmp_path / "ledger", write_atomic),
        **how,
    )
    assert found.critical.tolist() == [1, 1] and found.zero_gradient_images == 2


def test_healthy_gradients_pass_unchanged(trained: tiny.Trained) -> None:
    """To the bit: what a healthy network gives is used as it is."""
    x, y = trained.batch(0, 8)
    slope = gradient_of(trained.net, x, y)[1]
    assert torch.equal(usable(slope), slope)

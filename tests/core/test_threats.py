"""Projections onto ball and pixel range against a general solver, and the attacks that use them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plain
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from analysis import names
from core.attack.apgd import run_apgd
from core.attack.approaches import APPROACHES
from core.attack.projection import (
    FEW,
    direction_l1,
    direction_l2,
    project_l1,
    project_l2,
    soften_l1,
)
from core.attack.trajectory import TRAJECTORIES
from core.config.strength import NORMS
from core.data.splits import Split
from core.evaluation import autoattack
from core.evaluation.audit import check
from core.evaluation.queue import search
from core.model.linear_head import DUAL

Project = Callable[[Tensor, Tensor, Tensor], Tensor]
BALLS: dict[str, tuple[Project, int]] = {"l1": (project_l1, 1), "l2": (project_l2, 2)}
each = pytest.mark.parametrize("norm", BALLS)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Points far and near, clean images with pixels at 0 and 1, strengths from 0 to everything."""
    count, size = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 5]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    clean = (torch.rand(count, 3, size, size, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    spread = draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0, 30.0]))
    move = torch.randn(clean.shape, generator=generator) * spread
    if draw(st.booleans()):  # equal moves: many knots in one place
        move = move.sign() * spread
    epsilon = draw(st.lists(st.floats(0, 8), min_size=count, max_size=count))
    return (clean + move).double(), clean.double(), torch.tensor(epsilon).double()


def length(delta: Tensor, p: int) -> Tensor:
    return delta.flatten(1).norm(p=p, dim=1)


def by_solver(point: Tensor, clean: Tensor, epsilon: float, p: int) -> np.ndarray:
    """One image, with a root finder on the Lagrange multiplier."""
    d = (point - clean).numpy().ravel()
    low, high = -clean.numpy().ravel(), 1 - clean.numpy().ravel()

    def moved(multiplier: float) -> np.ndarray:
        if p == 2:
            return np.clip(d / (1 + multiplier), low, high)
        return np.clip(np.sign(d) * np.maximum(np.abs(d) - multiplier, 0), low, high)

    def excess(multiplier: float) -> float:
        return float(np.linalg.norm(moved(multiplier), p)) - epsilon

    if excess(0) <= 0:
        return moved(0)
    highest = 1.0
    while excess(highest) > 0 and highest < 1e15:
        highest *= 10
    return moved(brentq(excess, 0, highest, xtol=1e-14, rtol=1e-14) if highest < 1e15 else highest)


@pytest.mark.parametrize("radius", [0.2, 3.0, 30.0, 3000.0])
def test_the_fast_projection_of_l1_is_the_exact_one_whether_few_pixels_move_or_many(
    radius: float,
) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(6, 3, 8, 8, generator=generator)
    point = clean + 0.4 * torch.randn(clean.shape, generator=generator)
    epsilon = torch.linspace(radius / 2, radius, 6)
    exact = project_l1(point, clean, epsilon)
    assert torch.allclose(soften_l1(point, clean, epsilon), exact, atol=1e-6)
    moved = (exact != clean).flatten(1).float().mean(1)
    assert (moved < FEW).any() if radius < 1 else (moved > FEW).any()


@each
@settings(max_examples=150)
@given(problem=problems())
def test_projection_is_the_solvers(norm: str, problem: tuple[Tensor, Tensor, Tensor]) -> None:
    project, p = BALLS[norm]
    point, clean, epsilon = problem
    got = project(point, clean, epsilon) - clean
    for i, eps in enumerate(epsilon.tolist()):
        expected = by_solver(point[i], clean[i], eps, p)
        assert np.abs(got[i].numpy().ravel() - expected).max() < 1e-7


@each
@settings(max_examples=150)
@given(problem=problems(), seed=st.integers(0, 2**31))
def test_projection_is_inside_and_the_nearest_and_idempotent(
    norm: str, problem: tuple[Tensor, Tensor, Tensor], seed: int
) -> None:
    project, p = BALLS[norm]
    point, clean, epsilon = problem
    found = project(point, clean, epsilon)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert bool((length(found - clean, p) <= epsilon + 1e-9).all())
    assert torch.allclose(project(found, clean, epsilon), found, atol=1e-9)
    # No other point inside is nearer.
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(clean.shape, generator=generator).double()
    for scale in (1e-3, 0.1, 3.0):
        other = (found + scale * noise).clamp(0, 1) - clean
        other = other * (epsilon / length(other, p).clamp(min=1e-300)).clamp(max=1).view(
            -1, 1, 1, 1
        )
        nearer = length(clean + other - point, 2) - length(found - point, 2)
        assert bool((nearer >= -1e-9).all())


@each
def test_projection_in_single_precision_and_many_dimensions(norm: str) -> None:
    project, p = BALLS[norm]
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 64, 64, generator=generator)
    point = clean + torch.randn(clean.shape, generator=generator) / 10
    epsilon = torch.tensor([2.0, 0.0])
    found = project(point, clean, epsilon)
    assert found.dtype == torch.float32 and torch.equal(found[1], clean[1])
    assert float(length(found - clean, p)[0]) == pytest.approx(2.0, rel=1e-4)


def test_directions_have_length_one_or_vanish() -> None:
    gradient = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e-6
    gradient[2] = 0
    assert length(direction_l2(gradient), 2).tolist() == pytest.approx([1, 1, 0])
    share = torch.tensor([0.25, 0.0, 0.25])
    step = direction_l1(gradient, share)
    assert length(step, 1).tolist() == pytest.approx([1, 1, 0])
    assert [int(row.count_nonzero()) for row in step] == [48, 1, 0]
    kept = gradient[0][step[0] != 0].abs().min()
    assert bool((gradient[0][step[0] == 0].abs() <= kept).all())
    assert bool((step * gradient >= 0).all())


EPSILON = {"l2": 0.15, "l1": 1.5}


@each
def test_apgd_stays_inside_raises_the_loss_and_fools(norm: str, trained: tiny.Trained) -> None:
    x, y = trained.batch(0, 48)
    strength = torch.linspace(0, 2 * EPSILON[norm], 48)
    best, *_ = run_apgd(trained.net, x, y, epsilon=strength, steps=20, norm=norm)
    far = length(best.double() - x.double(), BALLS[norm][1])
    rounding = 6e-8 * x[0].numel() if norm == "l1" else 6e-8 * x[0].numel() ** 0.5
    assert bool((far <= strength.double() + rounding).all())
    assert float(best.min()) >= 0 and float(best.max()) <= 1 and torch.equal(best[0], x[0])
    with torch.no_grad():
        before = F.cross_entropy(trained.net(x), y, reduction="none")
        after = F.cross_entropy(trained.net(best), y, reduction="none")
        wrong = trained.net(best).argmax(1) != y
    assert bool((after >= before - 1e-5).all())
    assert 8 < int(wrong.sum()) < 44, "all or none are fooled: this shows little"
    # The larger half of the balls is used up to its surface.
    assert bool((far[24:] >= 0.8 * strength[24:]).all())


@each
def test_apgd_is_stronger_than_plain_gradient_ascent(norm: str, trained: tiny.Trained) -> None:
    """Ascent with a step of its own, projected by the solver's twin, 20 steps each."""
    project = BALLS[norm][0]
    x, y = trained.batch(0, 64)
    strength = torch.full((64,), EPSILON[norm])
    best, *_ = run_apgd(trained.net, x, y, epsilon=strength, steps=20, norm=norm)
    point = x
    for _ in range(20):
        at = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(trained.net(at), y, reduction="sum"), at)
        point = project(point + EPSILON[norm] / 4 * direction_l2(slope), x, strength)
    with torch.no_grad():
        ours = F.cross_entropy(trained.net(best), y, reduction="none")
        ascent = F.cross_entropy(trained.net(point), y, reduction="none")
    assert float(ours.mean()) >= 0.98 * float(ascent.mean())


@each
def test_search_agrees_with_independent_attacks(norm: str, trained: tiny.Trained) -> None:
    """exact = broken at this or a smaller strength; fast = survived at this or a larger one."""
    split, steps = trained.test.first(40), 8
    strengths = [0.0, *(EPSILON[norm] * i / 3 for i in range(1, 6))]
    how = {"steps": steps, "batch": 16, "device": tiny.CPU, "norm": norm}
    x, y = split.batch(torch.arange(40), tiny.CPU)
    alone = [trained.net(x).argmax(1) == y]
    for eps in strengths[1:]:
        one = search(trained.net, split, [0.0, eps], **how)
        alone.append(torch.from_numpy(one.critical) > 1)
    flags = torch.stack(alone).long()
    exact = search(trained.net, split, strengths, **how)
    fast = search(trained.net, split, strengths, mode="fast", **how)
    # Rounding in batches of another size may tip an image on the edge.
    lower = flags.cummin(0).values.sum(0) - torch.from_numpy(exact.critical)
    upper = (flags.flip(0).cummax(0).values.flip(0)[1:] * flags[0]).sum(0) + flags[0]
    assert int((lower != 0).sum()) <= 1
    assert int((upper != torch.from_numpy(fast.critical)).sum()) <= 1
    assert len(set(exact.critical.tolist())) >= 4
    seen = check(exact, trained.net, split, strengths, **how)
    assert seen.disagreeing == 0


def test_equals_the_plain_version_in_one_direction() -> None:
    """With one pixel all balls are the same interval, and l2's attack is l-inf's."""
    split = Split(torch.full((1, 1, 1, 1), 128, dtype=torch.uint8), torch.tensor([0]))
    x, y = split.batch(torch.arange(1), tiny.CPU)
    model = tiny.Wavy(3, pixels=1)
    linf = plain.attack(model, x.double(), y, [0.2], 12)
    l2, *_ = run_apgd(model, x.double(), y, epsilon=0.2, steps=12, norm="l2")
    assert torch.allclose(l2, linf.best, atol=1e-9)


def test_every_table_by_norm_knows_every_norm() -> None:
    tables = (TRAJECTORIES, APPROACHES, DUAL, autoattack.NORMS, names.NORMS)
    assert all({*table} == {*NORMS} for table in tables)

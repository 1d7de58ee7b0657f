"""Mode `fast` and its audit: what it may claim, what it costs, and when it is refused."""

from __future__ import annotations

import numpy as np
import plain
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core import audit
from core.data import Split
from core.evaluate import Search, search

STRENGTHS = [i / 255 for i in range(9)]
STEPS = 10
HOW = {"steps": STEPS, "batch": 50, "device": tiny.CPU}


class Double(Split):
    """Images as float64, so that rounding tips none over the edge."""

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        x, y = super().batch(index, device)
        return x.double(), y


@pytest.fixture(scope="module")
def exact(trained: tiny.Trained) -> Search:
    return search(trained.net, trained.test, STRENGTHS, **HOW)


@pytest.fixture(scope="module")
def fast(trained: tiny.Trained) -> Search:
    return search(trained.net, trained.test, STRENGTHS, mode="fast", **HOW)


def test_agrees_with_exact_on_nearly_every_pair(exact: Search, fast: Search) -> None:
    gap = np.abs(exact.critical.astype(int) - fast.critical)
    assert gap.sum() <= 0.002 * gap.size * (len(STRENGTHS) - 1)
    assert (fast.critical == 0).tolist() == (exact.critical == 0).tolist()
    assert len(set(fast.critical.tolist())) >= 6, "too few levels: this shows nothing"


def test_costs_a_fifth_of_the_naive_way_on_a_robust_network(trained: tiny.Trained) -> None:
    """Grid of eight strengths at the last of which about 80 % survive, as the gate states it."""
    grid = [i / 8 * 1.2 / 255 for i in range(9)]
    found = search(trained.net, trained.test, grid, mode="fast", **HOW)
    images = len(trained.test)
    assert 0.7 < found.correct(8) / images < 0.9
    naive = images * (len(grid) - 1) * (STEPS + 1)
    assert found.forwards <= 0.20 * naive and found.backwards == found.forwards
    climbed = search(trained.net, trained.test, grid, **HOW)
    assert climbed.forwards <= 0.85 * naive


@settings(max_examples=25)
@given(
    images=st.integers(1, 20),
    batch=st.integers(1, 24),
    steps=st.integers(1, 12),
    levels=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 2**31),
)
def test_is_the_largest_strength_survived_on_hilly_landscapes(
    images: int, batch: int, steps: int, levels: list[int], seed: int
) -> None:
    """Right at eps = right under an attack of its own at eps or at any larger strength; so never
    below independent attacks, and broken at the critical strength by an attack."""
    split = tiny.noise(images, classes=4, size=4, seed=seed)
    model = tiny.Wavy(seed)
    labels = model(split.batch(torch.arange(images), tiny.CPU)[0]).argmax(1)
    labels = torch.where(torch.arange(images) % 5 == 4, split.labels, labels)
    split = Double(split.images, labels)
    strengths = torch.tensor([0.0, *(n / 255 for n in sorted(levels))]).double().tolist()
    x, y = split.batch(torch.arange(images), tiny.CPU)
    how = {"steps": steps, "batch": batch, "device": tiny.CPU}
    found = search(model, split, strengths, mode="fast", **how)
    alone = plain.survives(model, x, y, strengths, steps)
    above = alone.flip(0).long().cummax(0).values.flip(0).bool() & alone[0]
    assert found.critical.tolist() == above.sum(0).tolist()
    climbed = search(model, split, strengths, **how)
    assert bool((climbed.critical <= found.critical).all())


def test_the_audit_repeats_a_tenth_exactly(
    trained: tiny.Trained, exact: Search, fast: Search
) -> None:
    images = max(20, round(len(trained.test) / 10))
    found = Search(fast.critical.copy())
    found.critical[:images] = exact.critical[:images]
    seen = audit.check(found, trained.net, trained.test, STRENGTHS, **HOW)
    assert (seen.images, seen.pairs) == (images, images * 8)
    again = search(trained.net, trained.test.first(images), STRENGTHS, **HOW)
    assert (seen.forwards, seen.backwards) == (again.forwards, again.backwards)
    assert seen.disagreeing == np.abs(again.critical - exact.critical[:images]).sum()


def test_the_audit_gives_audited_images_their_exact_result() -> None:
    """One disagreement among 1,500 pairs is let through, and put right."""
    split = Split(tiny.noise(1500).images, torch.zeros(1500, dtype=torch.long))
    strengths = [i / 1000 for i in range(11)]
    found = Search(np.full(1500, 11, np.int16))
    found.critical[[4, 150]] = 10
    seen = audit.check(found, Constant(3), split, strengths, steps=1, batch=100, device=tiny.CPU)
    assert (seen.images, seen.pairs, seen.disagreeing) == (150, 1500, 1)
    assert found.critical[4] == 11 and found.critical[150] == 10


@pytest.mark.parametrize("images", [3, 19, 60])
def test_the_audit_refuses_what_disagrees(images: int) -> None:
    split = Split(tiny.noise(images).images, torch.zeros(images, dtype=torch.long))
    found = Search(np.full(images, 3, np.int16))
    found.critical[1] = 2
    how = {"steps": 2, "batch": 8, "device": tiny.CPU}
    pairs = 2 * min(images, 20)
    message = f"disagrees with mode exact on 1 of {pairs} .*; evaluate with mode: exact$"
    with pytest.raises(audit.AuditError, match=message):
        audit.check(found, Constant(2), split, [0.0, 0.1, 0.2], **how)


class Constant(nn.Module):
    """Always says class 0 and breaks at no strength."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.eye(classes)[0] * 9)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : len(self.logits)] * 0 + self.logits

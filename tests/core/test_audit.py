"""Mode `fast` and its audit: what it may claim, what it costs, and when it falls back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from torch import Tensor

from core.data.splits import Split
from core.evaluation import audit
from core.evaluation.queue import Mode, Search, search
from core.store import snapshot
from core.store.snapshot import Snapshot

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
    classes = plain.classes(model, x, y, strengths, steps)
    alone = classes == labels
    above = alone.flip(0).long().cummax(0).values.flip(0).bool() & alone[0]
    assert found.critical.tolist() == above.sum(0).tolist()
    climbed = search(model, split, strengths, **how)
    assert bool((climbed.critical <= found.critical).all())
    for one in (found, climbed):
        assert one.taken.tolist() == plain.from_there_on(classes, one.critical.tolist(), labels)


GRID = [0.0, *(level * 1.5 / 255 for level in range(1, 6))]
"""The first strength is in the pockets of tiny.Pocket, the others are beyond them."""
QUICK = {"steps": 3, "batch": 200, "device": tiny.CPU}


def look(split: Split, mode: Mode = "fast", norm: str = "linf") -> Search:
    return search(tiny.Pocket(), split, GRID, mode=mode, norm=norm, **QUICK)


def check(found: Search, split: Split, **more: Any) -> audit.Audit:
    return audit.check(found, tiny.Pocket(), split, GRID, **QUICK, **more)


def test_the_network_with_pockets_fools_mode_fast() -> None:
    """Else the tests below show nothing."""
    split = tiny.pockets(40, share=0.1)
    assert [look(split).correct(level) for level in range(6)] == [40] * 6
    assert [look(split, "exact").correct(level) for level in range(6)] == [40, *[36] * 5]


@pytest.mark.parametrize(
    ("images", "share", "audited"),
    [(8, 0.13, 8), (100, 0.02, 100), (400, 0.05, 180), (1500, 0.02, 255)],
)
def test_what_fast_gets_wrong_falls_back_to_exact(
    images: int, share: float, audited: int, tmp_path: Path
) -> None:
    """The wrong images are spread over the split, not among the first: no share of them hides."""
    split, told, done = tiny.pockets(images, share), list[str](), list[int]()
    found, exact = look(split), look(split, "exact")
    assert (found.critical != exact.critical).sum() == int(images * share)
    seen = check(found, split, failed=told.append, progress=done.append)
    assert found.critical.tolist() == exact.critical.tolist()
    assert seen.fell_back and seen.wrong > 0 and seen.at_most > 0.01 * images
    assert (seen.doubtful, seen.images) == (images, audited)
    (line,) = told
    assert f"wrong on {seen.wrong} of {audited} audited images" in line
    assert line.endswith("; evaluating in mode exact")
    assert done[-1] == images and seen.forwards > exact.forwards


def test_an_audit_without_a_wrong_image_stays_fast() -> None:
    split = tiny.pockets(300, share=0)
    found = look(split)
    before = found.critical.copy()
    seen = check(found, split)
    assert not seen.fell_back and seen.wrong == 0 and seen.at_most <= 0.01 * 300
    assert (seen.images, seen.pairs, seen.disagreeing) == (158, 158 * 5, 0)
    assert seen.forwards == 158 * (1 + 5 * 3) and (found.critical == before).all()


def test_one_wrong_image_in_thousands_is_put_right() -> None:
    """A share below the limit may pass; what the audit saw is exact all the same."""
    split = tiny.pockets(1000, share=0)
    found = look(split)
    rows = audit._draw(np.arange(1000))
    split.images[rows[0], :, :2] = 224
    seen = check(found, split)
    assert seen.fell_back and seen.wrong == 1, "one of 250 is not below 1 % with any confidence"
    assert found.critical[rows[0]] == 1 and (np.delete(found.critical, rows[0]) == 6).all()


@pytest.mark.parametrize("images", [1, 2, 60])
def test_images_that_were_tried_at_every_strength_need_no_audit(images: int) -> None:
    """Wrong ones, those that break at the first or second strength, and those of a single one."""
    split = tiny.pockets(images, share=1)
    found = search(tiny.Pocket(), split, GRID[:2], mode="fast", **QUICK)
    seen = audit.check(found, tiny.Pocket(), split, GRID[:2], norm="l1", **QUICK)
    assert (seen.doubtful, seen.images, seen.forwards, seen.fell_back) == (0, 0, 0, False)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 6))
def test_only_doubtful_images_can_differ_from_exact(norm: str, seed: int, count: int) -> None:
    """On hilly landscapes: an image with a critical level of at most 2 has had the same attacks."""
    split, model = tiny.noise(30, classes=4, size=4, seed=seed), tiny.Wavy(seed)
    split = Double(split.images, model(split.batch(torch.arange(30), tiny.CPU)[0]).argmax(1))
    reach = {"linf": 0.06, "l2": 0.3, "l1": 1.0}[norm]
    strengths = torch.linspace(0, reach, count + 1).tolist()
    how = {"steps": 4, "batch": 16, "device": tiny.CPU, "norm": norm}
    fast = search(model, split, strengths, mode="fast", **how)
    exact = search(model, split, strengths, **how)
    differ = fast.critical != exact.critical
    assert (fast.critical[differ] > 2).all() and (exact.critical <= fast.critical).all()
    seen = audit.check(fast, model, split, strengths, **how)
    assert fast.critical.tolist() == exact.critical.tolist()  # few: all doubtful are audited
    assert seen.wrong == differ.sum() and seen.fell_back == bool(differ.any())


@settings(max_examples=25, deadline=None)
@given(doubtful=st.integers(1, 200), data=st.data())
def test_the_bound_holds_as_often_as_it_says(doubtful: int, data: st.DataObject) -> None:
    """Exactly, from the distribution of what a draw finds."""
    images = data.draw(st.integers(1, doubtful))
    really = data.draw(st.integers(0, doubtful))
    chance = hypergeom(doubtful, really, images)
    low, high = (int(end) for end in chance.support())
    missed = sum(
        float(chance.pmf(wrong))
        for wrong in range(low, high + 1)
        if audit._at_most(wrong, images, doubtful) < really
    )
    assert missed <= audit.RISK + 1e-9


@pytest.mark.parametrize("doubtful", [1, 99, 100, 101, 150, 1234, 9999])
def test_the_audit_is_as_large_as_its_limit_needs(doubtful: int) -> None:
    """Without a wrong image it passes; one image less would leave room for a share over 1 %."""
    rows = audit._draw(np.arange(doubtful) * 2)
    assert len(set(rows.tolist())) == len(rows) and set(rows.tolist()) <= set(range(0, 20000, 2))
    assert audit._at_most(0, len(rows), doubtful) <= 0.01 * doubtful
    if doubtful > audit.FEW:
        assert audit._at_most(0, len(rows) - 1, doubtful) > 0.01 * doubtful
    else:
        assert len(rows) == doubtful


def test_a_killed_fall_back_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its own snapshot: that of the fast search is about something else."""
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    split = tiny.pockets(200, share=0.1)
    exact, calm, again = look(split, "exact"), list[int](), list[int]()
    check(look(split), split, progress=calm.append)

    def stop(done: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(look(split), split, progress=stop, snapshot=Snapshot(tmp_path / "s"))
    found = look(split)
    check(found, split, progress=again.append, snapshot=Snapshot(tmp_path / "s"))
    assert found.critical.tolist() == exact.critical.tolist()
    assert len(again) < len(calm) and again[0] >= 100

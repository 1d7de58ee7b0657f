"""What holds for every attack in every norm: one table of properties.

AutoAttack is the real package, its loops cut short; without it its rows skip themselves.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from core.attack.apgd import run_apgd
from core.data.splits import Split
from core.evaluation import audit, autoattack
from core.evaluation.autoattack import Ledger
from core.evaluation.queue import Search, search

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
STRENGTHS = {"linf": [0.0, 1 / 255, 3 / 255], "l2": [0.0, 0.1, 0.3], "l1": [0.0, 1.0, 3.0]}
STEPS, IMAGES = 4, 10
TABLE = [(attack, norm) for attack in ("exact", "fast", "autoattack") for norm in ORDER]
each = pytest.mark.parametrize(("attack", "norm"), TABLE)


class Double(Split):
    """Images as float64: rounding tips no image over the edge, on whatever machine this runs."""

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        x, y = super().batch(index, device)
        return x.double(), y

    def first(self, n: int | None) -> Split:
        return Double(self.images[:n], self.labels[:n])


class Watched(nn.Module):
    """Keeps every input, and counts those that are to have a gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[Tensor] = []
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().flatten(1).clone())
        self.asked += len(x) * x.requires_grad
        logits: Tensor = self.inner(x)
        return logits


@dataclass
class Bench:
    """A model, images, and any attack on them."""

    model: Watched
    split: Split
    folder: Path

    def run(self, attack: str, norm: str, *, batch: int = 4, levels: int = 3) -> Search:
        strengths = STRENGTHS[norm][:levels]
        how: dict[str, Any] = {"norm": norm, "batch": batch, "device": tiny.CPU}
        self.model.seen, self.model.asked = [], 0
        if attack != "autoattack":
            mode: Any = attack
            return search(self.model, self.split, strengths, steps=STEPS, mode=mode, **how)

        def first() -> Search:
            """An APGD that never broke anything, so that the ensemble has something to do."""
            clean = search(self.model, self.split, [0.0], steps=1, **how)
            return Search(clean.critical * len(strengths), clean.taken, clean.forwards)

        ledger = Ledger(self.folder / f"{np.random.default_rng().integers(2**62)}.part")
        return autoattack.evaluate(first, self.model, self.split, strengths, ledger=ledger, **how)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack's own ensemble, with a few steps of each attack."""
    package = pytest.importorskip("pyautoattack")

    class Short(package.AutoAttack):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            for part in (self.apgd, self.apgd_targeted, self.fab):
                part.n_iter = part.n_iter_orig = 5
                part.n_restarts = part.n_target_classes = 1
            self.square.n_queries = 9

    monkeypatch.setattr(package, "AutoAttack", Short)


@pytest.fixture
def bench(
    trained: tiny.Trained, tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    if attack == "autoattack":
        shorten(monkeypatch)
    images = trained.test.first(IMAGES)
    exact = attack != "autoattack"  # which wants float32
    model = copy.deepcopy(trained.net)
    split = Double(images.images, images.labels) if exact else images
    return Bench(Watched(model.double() if exact else model), split, tmp_path)


def far(points: Tensor, clean: Tensor, norm: str) -> Tensor:
    """Distance of every point [P, D] from the nearest of the clean images [N, D]."""
    return torch.cdist(points.double(), clean.double(), p=ORDER[norm]).amin(1)


@each
def test_it_stays_in_the_ball_and_in_range(
    bench: Bench, attack: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every point that APGD looks at; of AutoAttack every one that it hands back."""
    given: list[Tensor] = []
    inside = autoattack._inside

    def spy(point: Tensor, *rest: Any) -> Tensor:
        given.append(point.flatten(1))
        found: Tensor = inside(point, *rest)
        assert found.all(), "a point that would not be believed"
        return found

    monkeypatch.setattr(autoattack, "_inside", spy)
    found = bench.run(attack, norm)
    points = torch.cat(given if attack == "autoattack" else bench.model.seen)
    clean = bench.split.batch(torch.arange(IMAGES), tiny.CPU)[0].flatten(1)
    largest = STRENGTHS[norm][-1]
    assert float(points.min()) >= 0 and float(points.max()) <= 1
    moved = far(points, clean, norm)
    assert float(moved.max()) <= largest * (1 + 1e-4) + 1e-6
    assert float(moved.max()) >= 0.9 * largest, "hardly moved: this shows little"
    assert 0 < found.correct(2) < found.correct(0), "all or none are broken: this shows little"


@pytest.mark.parametrize("norm", ORDER)
def test_strength_0_gives_the_image_back(norm: str, trained: tiny.Trained) -> None:
    x, y = trained.batch(0, 6)
    best, *_ = run_apgd(trained.net, x, y, epsilon=0.0, steps=STEPS, norm=norm)
    assert torch.equal(best, x)


@each
def test_strength_0_costs_one_look(bench: Bench, attack: str, norm: str) -> None:
    found = bench.run(attack, norm, levels=1)
    assert (found.forwards, found.backwards, bench.model.asked) == (IMAGES, 0, 0)
    assert sum(map(len, bench.model.seen)) == IMAGES


@each
def test_the_same_again(bench: Bench, attack: str, norm: str) -> None:
    torch.manual_seed(1)
    one = bench.run(attack, norm)
    torch.manual_seed(2)
    stream = torch.get_rng_state()
    two = bench.run(attack, norm)
    assert torch.equal(stream, torch.get_rng_state()), "the global stream was drawn from"
    assert np.array_equal(one.critical, two.critical)
    assert (one.forwards, one.backwards) == (two.forwards, two.backwards)


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize(("attack", "norm"), [row for row in TABLE if row[0] != "autoattack"])
def test_the_batch_does_not_matter(bench: Bench, attack: str, norm: str, batch: int) -> None:
    """AutoAttack draws random numbers for a batch as a whole: of it only equal batches are equal,
    which is what a repeated or resumed evaluation has."""
    one, other = bench.run(attack, norm), bench.run(attack, norm, batch=batch)
    assert np.array_equal(one.critical, other.critical)
    assert (one.forwards, one.backwards) == (other.forwards, other.backwards)


@each
def test_accuracy_is_never_above_clean_and_only_falls(bench: Bench, attack: str, norm: str) -> None:
    found = bench.run(attack, norm)
    x, y = bench.split.batch(torch.arange(IMAGES), tiny.CPU)
    with torch.no_grad():
        clean = int((bench.model.inner.eval()(x).argmax(1) == y).sum())
    accuracies = [found.correct(level) for level in range(3)]
    assert accuracies[0] == clean and accuracies == sorted(accuracies, reverse=True)


@each
def test_costs_are_what_the_model_saw(bench: Bench, attack: str, norm: str) -> None:
    found = bench.run(attack, norm)
    seen = sum(map(len, bench.model.seen))
    assert (found.forwards, found.backwards) == (seen, bench.model.asked)


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_training_costs_one_forward_more_than_gradients(
    norm: str, steps: int, trained: tiny.Trained
) -> None:
    model = Watched(trained.net)
    x, y = trained.batch(0, 5)
    run_apgd(model, x, y, epsilon=STRENGTHS[norm][1], steps=steps, norm=norm)
    assert [len(part) for part in model.seen] == [5] * (steps + 1)
    assert model.asked == 5 * steps


@pytest.mark.parametrize(("attack", "norm"), [row for row in TABLE if row[0] == "exact"])
def test_a_full_search_costs_at_most_its_plain_version(
    bench: Bench, attack: str, norm: str
) -> None:
    """n steps at each strength on images that are right so far, and one look at the clean image."""
    found = bench.run(attack, norm)
    tries = sum(found.correct(level) for level in range(2))
    assert IMAGES < found.forwards <= IMAGES + STEPS * tries


@pytest.mark.parametrize(("attack", "norm"), [row for row in TABLE if row[0] == "fast"])
def test_fast_and_exact_agree(bench: Bench, attack: str, norm: str) -> None:
    found = bench.run(attack, norm)
    seen = audit.check(
        found,
        bench.model,
        bench.split,
        STRENGTHS[norm],
        steps=STEPS,
        batch=4,
        device=tiny.CPU,
        norm=norm,
    )
    assert seen.images == (found.critical > 2).sum() > 0 and seen.disagreeing == 0

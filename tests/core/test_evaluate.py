"""The search for critical strengths against attacks of their own at every strength, on a really
trained network: same flags, never above, fewer forwards."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import plain
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.data.splits import Split
from core.evaluation.queue import Search, clean_loss, search

STRENGTHS = [i / 255 for i in range(9)]
STEPS = 10


def look(
    model: nn.Module,
    split: Split,
    strengths: list[float] = STRENGTHS,
    *,
    steps: int = STEPS,
    batch: int = 64,
) -> Search:
    return search(model, split, strengths, steps=steps, batch=batch, device=tiny.CPU)


class Counting(nn.Module):
    """Counts the images it sees, and those whose input asks for a gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.images = self.asked = 0
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.asked += len(x) * x.requires_grad
        self.largest = max(self.largest, len(x))
        logits: Tensor = self.inner(x)
        return logits


class Double(Split):
    """Images as float64: rounding tips no image over the edge, on whatever machine this runs."""

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        x, y = super().batch(index, device)
        return x.double(), y


def both_ways(
    model: nn.Module, split: Split, strengths: list[float], *, steps: int, batch: int
) -> tuple[Search, Tensor]:
    """The search, and [strengths, N] right under an attack of its own at each strength: nothing
    shared, no early stop, no nesting."""
    split = Double(split.images, split.labels)
    strengths = torch.tensor(strengths).double().tolist()  # as float32 has them
    model = copy.deepcopy(model).double()
    x, y = split.batch(torch.arange(len(split)), tiny.CPU)
    found = look(model, split, strengths, steps=steps, batch=batch)
    return found, plain.classes(model, x, y, strengths, steps) == y


@pytest.fixture(scope="module")
def found(trained: tiny.Trained) -> Search:
    return look(trained.net, trained.test)


@pytest.fixture(scope="module")
def pair(trained: tiny.Trained) -> tuple[Search, Tensor]:
    return both_ways(trained.net, trained.test.first(96), STRENGTHS, steps=STEPS, batch=40)


def right(found: Search) -> Tensor:
    """[strengths, N] right according to the search."""
    return torch.from_numpy(found.critical)[None] > torch.arange(len(STRENGTHS))[:, None]


def test_the_network_is_worth_attacking(found: Search, trained: tiny.Trained) -> None:
    """Else the tests below compare constants."""
    shares = [found.correct(level) / len(trained.test) for level in range(len(STRENGTHS))]
    assert shares[0] > 0.9 and 0.1 < shares[3] < 0.9 and shares[-1] < 0.1


def test_flags_equal_those_of_separate_attacks(pair: tuple[Search, Tensor]) -> None:
    """Right at eps = right under the attacks at eps and at every smaller strength."""
    found, alone = pair
    assert torch.equal(right(found), alone.long().cummin(0).values.bool())


def test_is_never_above_separate_attacks(pair: tuple[Search, Tensor]) -> None:
    found, alone = pair
    assert not bool((right(found) & ~alone).any())
    # The other way round only where a smaller ball broke an image that a larger one missed.
    assert int((alone & ~right(found)).sum()) <= 0.002 * alone.numel()


def test_accuracy_never_rises_with_strength(found: Search) -> None:
    counts = [found.correct(level) for level in range(len(STRENGTHS))]
    assert all(a >= b for a, b in pairwise(counts))
    assert found.critical.min() >= 0 and found.critical.max() <= len(STRENGTHS)


def test_costs_what_it_says_and_less_than_the_naive_way(trained: tiny.Trained) -> None:
    model, images = Counting(trained.net), len(trained.test)
    found = look(model, trained.test, batch=50)
    assert (model.images, model.asked) == (found.forwards, found.backwards)
    assert model.largest <= 50
    attacked = found.correct(0)
    naive = images + attacked * (len(STRENGTHS) - 1) * (STEPS + 1)
    assert found.forwards < 0.75 * naive
    # To the image: one look at each clean image, `STEPS` forwards for every strength survived and
    # at most as many for the one that broke it.
    survived = int(found.critical[found.critical > 0].sum() - attacked)
    assert images + survived * STEPS < found.forwards <= images + (survived + attacked) * STEPS


def test_survivors_cost_one_clean_look_and_full_attacks_after_it() -> None:
    """A constant model is right on its class, at every strength, at full price; its gradient
    vanishes everywhere, which is counted where it is right."""

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * 0 + torch.tensor([9.0, 0.0, 0.0])

    split = Split(tiny.noise(7).images, torch.tensor([0, 1, 0, 2, 0, 0, 1]))
    model = Counting(Constant())
    found = look(model, split, [0.0, 0.01, 0.02, 0.03], steps=5, batch=3)
    assert found.zero_gradient_images == 4
    assert found.critical.tolist() == [4, 0, 4, 0, 4, 4, 0]
    assert model.images == found.forwards == 7 + 4 * 3 * 5
    assert [found.correct(level) for level in range(4)] == [4] * 4


@pytest.mark.parametrize("batch", [1, 17, 1000])
def test_does_not_depend_on_the_batch_size(
    trained: tiny.Trained, found: Search, batch: int
) -> None:
    images = 16 if batch == 1 else 64
    other = look(trained.net, trained.test.first(images), batch=batch)
    # Rounding differs between batch sizes and may tip an image on the edge by one strength.
    gap = np.abs(other.critical - found.critical[:images])
    assert gap.max() <= 1 and (gap > 0).mean() <= 0.02


def test_does_not_depend_on_the_order(trained: tiny.Trained, found: Search) -> None:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    split = Split(trained.test.images[order], trained.test.labels[order])
    gap = np.abs(look(trained.net, split, batch=30).critical - found.critical[order.numpy()])
    assert gap.max() <= 1 and (gap > 0).mean() <= 0.02


@settings(max_examples=25)
@given(
    images=st.integers(1, 20),
    batch=st.integers(1, 24),
    steps=st.integers(1, 12),
    levels=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 2**31),
)
def test_matches_separate_attacks_on_hilly_landscapes(
    images: int, batch: int, steps: int, levels: list[int], seed: int
) -> None:
    """Shapes of every kind: more places than images, one place, one strength, one step."""
    split = tiny.noise(images, classes=4, size=4, seed=seed)
    model = tiny.Wavy(seed)
    # Most images are right when clean, as the model sees it.
    labels = model(split.batch(torch.arange(images), tiny.CPU)[0]).argmax(1)
    split = Split(split.images, torch.where(torch.arange(images) % 5 == 4, split.labels, labels))
    strengths = [0.0, *(level / 255 for level in sorted(levels))]
    found, alone = both_ways(model, split, strengths, steps=steps, batch=batch)
    assert found.critical.tolist() == alone.long().cummin(0).values.sum(0).tolist()


def test_single_precision_agrees_too(found: Search, pair: tuple[Search, Tensor]) -> None:
    gap = np.abs(found.critical[:96] - pair[0].critical)
    assert gap.max() <= 1 and (gap > 0).mean() <= 0.03


def test_an_unseen_strength_between_two_changes_nothing_else(trained: tiny.Trained) -> None:
    """A thinner grid gives the same accuracies wherever both measure and nesting did not help."""
    split = trained.test.first(60)
    fine, coarse = look(trained.net, split), look(trained.net, split, STRENGTHS[::2])
    counts = [coarse.correct(level) for level in range(len(STRENGTHS[::2]))]
    assert counts == pytest.approx([fine.correct(2 * i) for i in range(len(counts))], abs=1)


def test_counts_images_whose_gradient_vanishes(trained: tiny.Trained, found: Search) -> None:
    """Logits x 10,000: softmax saturates in float32, the attack is blind, and says so."""
    assert found.zero_gradient_images == 0
    masked = tiny.Scaled(trained.net.inner, scale=1e4)
    blind = look(masked, trained.test.first(48), STRENGTHS[:5], batch=16)
    x, y = trained.batch(0, 48)
    x.requires_grad_()
    logits = masked(x)
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    dead = (slope.flatten(1).abs().amax(1) == 0) & (logits.argmax(1) == y)
    assert blind.zero_gradient_images == int(dead.sum()) > 24
    seen = int((found.critical[:48] > 4).sum())
    assert blind.correct(4) > seen, "the mask hides nothing: this test shows nothing"


class Overflowing(nn.Module):
    """Gives no numbers for images brighter than 1/2; else class 1, less and less."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        logits = torch.cat([mean - 2, -mean, mean - 3], dim=1)
        return torch.where(mean > 0.5, torch.nan, logits)


def test_what_is_no_number_is_not_right() -> None:
    """argmax takes NaN for the largest: of class 0, which it would name, nothing is right either,
    and an attack that ends there has broken the image."""
    grey = torch.tensor([200, 200, 120, 60], dtype=torch.uint8).view(-1, 1, 1, 1)
    split = Split(grey.expand(-1, 3, 4, 4).contiguous(), torch.tensor([0, 1, 1, 1]))
    strengths = [0.0, 0.1]
    found, clean = look(Overflowing(), split, strengths, steps=3), look(Overflowing(), split, [0.0])
    assert found.critical.tolist() == [0, 0, 1, 2] and found.taken.tolist() == [-1, -1, -1, 1]
    assert clean.critical.tolist() == [0, 0, 1, 1] and clean.taken.tolist() == [-1, -1, 1, 1]
    assert clean_loss(Overflowing(), split, batch=4, device=tiny.CPU)[1] == 2


def test_clean_search_needs_no_gradient(trained: tiny.Trained, found: Search) -> None:
    model = Counting(trained.net)
    clean = look(model, trained.test, [0.0])
    assert clean.critical.tolist() == (found.critical > 0).astype(int).tolist()
    assert clean.correct(0) == found.correct(0)
    assert (model.images, model.asked) == (len(trained.test), 0)
    assert (clean.forwards, clean.backwards) == (len(trained.test), 0)


def test_progress_ends_at_the_number_of_images(trained: tiny.Trained) -> None:
    seen: list[int] = []
    split = trained.test.first(30)
    options = {"steps": 3, "batch": 8, "device": tiny.CPU}
    search(trained.net, split, STRENGTHS, progress=seen.append, **options)
    assert seen == sorted(seen) and seen[-1] == 30


def test_leaves_the_model_as_it_was() -> None:
    model = tiny.net().train()
    model[0].requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    look(model, tiny.noise(12), batch=5, steps=3)
    clean_loss(model, tiny.noise(12), batch=5, device=tiny.CPU)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]
    assert all(p.requires_grad for p in model[3].parameters())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(stream, torch.get_rng_state())


@pytest.mark.parametrize("batch", [7, 128])
def test_clean_loss_is_the_mean_over_images(trained: tiny.Trained, batch: int) -> None:
    x, y = trained.batch(0, len(trained.test))
    with torch.no_grad():
        logits = trained.net(x)
    loss, correct = clean_loss(trained.net, trained.test, batch=batch, device=tiny.CPU)
    assert loss == pytest.approx(float(F.cross_entropy(logits.double(), y)), rel=1e-5)
    assert correct == int((logits.argmax(1) == y).sum())

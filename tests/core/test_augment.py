"""Augmentation: the same for an image whatever its batch, inside [0, 1], and what it says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import core.model.vision  # noqa: F401  before torchvision
from core.config import Augment
from core.training.augment import augment_images, draw_table

NONE = {"flip": False, "jitter": 0.0, "rotate": 0.0, "shift": 0}
kinds = st.builds(
    Augment,
    flip=st.booleans(),
    jitter=st.floats(0, 0.99),
    rotate=st.floats(0, 180),
    shift=st.integers(0, 20),
)


def images(count: int, seed: int = 0, *, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, size, size, generator=generator) * 1.5 - 0.25
    return x.clamp(0, 1)  # some pixels are exactly 0 or 1


def numbers(count: int, **columns: float) -> Tensor:
    """Rows of the table: 0.5 (no change but for the flip) except for the named columns."""
    names = ("flip", "brightness", "contrast", "saturation", "angle", "down", "right")
    row = torch.tensor([columns.get(name, 0.5) for name in names])
    return row.repeat(count, 1)


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 500), count=st.integers(1, 50))
def test_the_table_repeats(seed: int, epoch: int, count: int) -> None:
    stream = torch.get_rng_state()
    table = draw_table(seed, epoch, count)
    assert torch.equal(table, draw_table(seed, epoch, count))
    assert torch.equal(stream, torch.get_rng_state())
    assert table.shape == (count, 7) and 0 <= float(table.min()) <= float(table.max()) < 1
    assert not torch.equal(table, draw_table(seed + 1, epoch, count))
    assert not torch.equal(table, draw_table(seed, epoch + 1, count))


def test_the_numbers_are_uniform_and_not_shared() -> None:
    table = draw_table(0, 0, 20_000)
    assert torch.allclose(table.mean(0), torch.full((7,), 0.5), atol=0.01)
    correlation = torch.corrcoef(torch.cat([table[:-1], table[1:]], dim=1).T)
    assert float((correlation - torch.eye(14)).abs().max()) < 0.04


@settings(max_examples=40)
@given(kind=kinds, seed=st.integers(0, 99), data=st.data())
def test_an_image_does_not_depend_on_its_batch(
    kind: Augment, seed: int, data: st.DataObject
) -> None:
    x, table = images(8, seed), draw_table(seed, 3, 8)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=8)))
    whole = augment_images(x, table, kind)
    assert torch.equal(augment_images(x[rows], table[rows], kind), whole[rows])


@given(kind=kinds, seed=st.integers(0, 2**31))
def test_stays_in_range_and_leaves_its_input(kind: Augment, seed: int) -> None:
    x = images(4, seed)
    before = x.clone()
    changed = augment_images(x, draw_table(seed, 0, 4), kind)
    assert changed.shape == x.shape and changed.dtype == x.dtype
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("rotate", [0.001, 2.0, 45.0, 180.0])
def test_turning_a_white_image_stays_in_range(rotate: float) -> None:
    """Weights of four neighbours may add up to a little more than 1."""
    x = torch.ones(64, 3, 17, 17)
    changed = augment_images(x, draw_table(0, 0, 64), Augment(**NONE | {"rotate": rotate}))
    assert float(changed.max()) <= 1


def test_all_off_is_the_identity() -> None:
    x = images(5)
    assert torch.equal(augment_images(x, draw_table(0, 0, 5), Augment(**NONE)), x)


def test_each_kind_changes_something() -> None:
    x, table = images(5), draw_table(0, 0, 5)
    for change in ({"flip": True}, {"jitter": 0.25}, {"rotate": 2.0}, {"shift": 2}):
        assert not torch.equal(augment_images(x, table, Augment(**NONE | change)), x), change


def test_flips_below_one_half() -> None:
    x, table = images(400, size=4), draw_table(0, 0, 400)
    changed = augment_images(x, table, Augment(**NONE | {"flip": True}))
    flipped = (changed == x.flip(-1)).flatten(1).all(1)
    kept = (changed == x).flatten(1).all(1)
    assert torch.equal(flipped, table[:, 0] < 0.5) and torch.equal(kept, ~flipped)
    assert 150 < int(flipped.sum()) < 250


@given(
    shift=st.integers(1, 15),
    down=st.floats(0, 1, exclude_max=True),
    right=st.floats(0, 1, exclude_max=True),
)
def test_shifts_wrap_round(shift: int, down: float, right: float) -> None:
    x, table = images(2, size=10), numbers(2, down=down, right=right)
    table = table.clamp(max=1 - 2**-24)  # rounding to float32 may reach 1, the table never does
    changed = augment_images(x, table, Augment(**NONE | {"shift": shift}))
    steps = [math.floor(float(u) * (2 * shift + 1)) - shift for u in table[0, 5:]]
    assert all(-shift <= step <= shift for step in steps)
    assert torch.equal(changed, x.roll((steps[0], steps[1]), dims=(2, 3)))


def test_every_shift_occurs() -> None:
    x = torch.zeros(500, 3, 9, 9)
    x[:, :, 4, 4] = 1
    changed = augment_images(x, draw_table(0, 0, 500), Augment(**NONE | {"shift": 2}))
    places = {tuple(place.tolist()) for place in (changed[:, 0] == 1).nonzero()[:, 1:]}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


@pytest.mark.parametrize("rotate", [2.0, 90.0, 180.0])
def test_an_angle_of_zero_is_the_identity(rotate: float) -> None:
    x = images(3)
    changed = augment_images(x, numbers(3, angle=0.5), Augment(**NONE | {"rotate": rotate}))
    assert torch.allclose(changed, x, atol=1e-5)


def test_right_angles_turn_the_picture() -> None:
    x = images(2)
    for angle, turns in ((1.0, 1), (0.0, -1)):
        table = numbers(2, angle=angle)
        quarter = augment_images(x, table, Augment(**NONE | {"rotate": 90.0}))
        half = augment_images(x, table, Augment(**NONE | {"rotate": 180.0}))
        assert torch.allclose(quarter, x.rot90(turns, dims=(2, 3)), atol=1e-5)
        assert torch.allclose(half, x.rot90(2, dims=(2, 3)), atol=1e-5)


def test_turns_no_further_than_asked() -> None:
    """A dot 8 pixels from the centre moves by at most 8 sin(20 degrees), in both directions."""
    x = torch.zeros(300, 3, 21, 21)
    x[:, :, 9:12, 17:20] = 1
    changed = augment_images(x, draw_table(0, 0, 300), Augment(**NONE | {"rotate": 20.0}))[:, 0]
    rows = torch.arange(21.0).view(1, -1, 1)
    heights = (changed * rows).sum((1, 2)) / changed.sum((1, 2)) - 10
    limit = 8 * math.sin(math.radians(20))
    assert float(heights.abs().max()) <= limit + 0.2
    assert float(heights.min()) < -0.8 * limit and float(heights.max()) > 0.8 * limit


@settings(max_examples=40)
@given(
    jitter=st.floats(0.01, 0.99),
    draws=st.tuples(*[st.floats(0, 1)] * 3),
    seed=st.integers(0, 1000),
)
def test_jitter_equals_torchvisions(
    jitter: float, draws: tuple[float, float, float], seed: int
) -> None:
    from torchvision.transforms.v2 import functional

    x = images(2, seed)
    brightness, contrast, saturation = (1 + (2 * u - 1) * jitter for u in draws)
    assert all(1 - jitter <= f <= 1 + jitter for f in (brightness, contrast, saturation))
    expected = functional.adjust_brightness(x, brightness)
    expected = functional.adjust_contrast(expected, contrast)
    expected = functional.adjust_saturation(expected, saturation)
    table = numbers(2, **dict(zip(("brightness", "contrast", "saturation"), draws, strict=True)))
    changed = augment_images(x, table, Augment(**NONE | {"jitter": jitter}))
    # The two write the weight of red as .299 and .2989.
    assert torch.allclose(changed, expected, atol=1e-3)


def test_no_jitter_in_the_middle_of_the_range() -> None:
    x = images(3)
    changed = augment_images(x, numbers(3), Augment(**NONE | {"jitter": 0.25}))
    assert torch.allclose(changed, x, atol=1e-6)

"""The drawn datasets: shapes, balance, seeds, contrast, and that their classes mean something."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from core.config import ConfigError, registry
from core.data.capsules import CONTRAST_FACTOR, Look, Skeletons, coverage, pose, render
from core.data.drawn import CLASSES, NAMES, SIZES, draw

SPLITS = ("train", "val", "test")


@cache
def drawn(name: str, split: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw(name, split, seed=seed)


@cache
def templates(name: str, split: str) -> Tensor:
    """Unit-length mean drawing of every class: [classes, 1024]. Colour and sign of the drawing
    are random, so what is averaged is how far each pixel lies from the image's usual colour."""
    images, labels = drawn(name, split)
    pixels = images.float()
    usual = pixels.flatten(2).median(dim=2).values[..., None, None]
    far = (pixels - usual).square().sum(dim=1).sqrt().flatten(1)
    means = torch.stack([far[labels == label].mean(dim=0) for label in range(CLASSES[name])])
    return torch.nn.functional.normalize(means - means.mean(dim=0), dim=1)


def rows_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_names_are_those_the_registry_lists() -> None:
    assert set(NAMES) == set(CLASSES) == set(SIZES) == set(registry.PROCEDURAL)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_split_is_a_balanced_uint8_array(name: str, split: str) -> None:
    images, labels = drawn(name, split)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert images.shape == (SIZES[name][split], 3, 32, 32) and len(labels) == len(images)
    assert len(labels.bincount()) == CLASSES[name]
    assert len(labels.bincount().unique()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_leading_part_is_balanced_too(name: str) -> None:
    _, labels = drawn(name, "test")
    assert sorted(labels[: CLASSES[name]].tolist()) == list(range(CLASSES[name]))


@pytest.mark.parametrize("name", NAMES)
def test_same_call_draws_the_same_and_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    images, labels = draw(name, "val", seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(images, drawn(name, "val")[0])
    assert torch.equal(labels, drawn(name, "val")[1])


@pytest.mark.parametrize("name", ["glyph", "plane"])
def test_seed_changes_training_images_only(name: str) -> None:
    first, other = drawn(name, "train")[0], drawn(name, "train", 1)[0]
    assert not rows_of(first) & rows_of(other)
    for split in ("val", "test"):
        assert torch.equal(drawn(name, split)[0], draw(name, split, seed=1)[0])


def test_no_image_occurs_twice() -> None:
    images = [drawn(name, split)[0] for name in NAMES for split in SPLITS]
    assert len(rows_of(torch.cat(images))) == sum(map(len, images))


@pytest.mark.parametrize("name", NAMES)
def test_contrast_is_low_and_fully_used(name: str) -> None:
    images, _ = drawn(name, "test")
    reach = round(255 * CONTRAST_FACTOR / 2)
    assert abs(int(images.min()) - (127.5 - reach)) <= 1
    assert abs(int(images.max()) - (127.5 + reach)) <= 1
    assert images.float().mean().item() == pytest.approx(127.5, abs=2)
    assert 0.04 < images.float().std().item() / 255 < 0.08  # the backbones divide by .075


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_show_the_same_classes(name: str) -> None:
    """The mean test drawing of a class resembles that class's mean training drawing most."""
    alike = templates(name, "train") @ templates(name, "test").T
    right = alike.argmax(dim=0) == torch.arange(CLASSES[name])
    assert right.float().mean() > 0.85


def test_letters_of_a_family_are_alike() -> None:
    alike = templates("glyph", "train") @ templates("glyph", "train").T
    family = torch.arange(64) // 4
    same = (family[:, None] == family) & ~torch.eye(64, dtype=torch.bool)
    strangers = family[:, None] != family
    assert alike[same].mean() > alike[strangers].mean() + 0.3


def test_source_classes_are_others_than_the_target_classes() -> None:
    """No target letter looks as much like any source class as like itself in other images."""
    for name in ("glyph", "plane"):
        itself = (templates(name, "train") * templates(name, "test")).sum(dim=1)
        nearest = (templates(name, "test") @ templates("source", "train").T).amax(dim=1)
        assert (itself > nearest).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("glyf", "train", "unknown procedural dataset 'glyf', did you mean 'glyph'?"),
        ("plane", "tset", "plane: unknown split 'tset', did you mean 'test'?"),
    ],
)
def test_unknown_names_are_refused(name: str, split: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        draw(name, split, seed=0)
    assert str(caught.value) == said


def capsule(start: tuple[float, float], end: tuple[float, float], radius: float) -> Skeletons:
    edges = torch.tensor([[0, 1]])
    return Skeletons(torch.tensor([[start, end]]), torch.tensor([[radius]]), edges)


@pytest.mark.parametrize("end", [(0.5, 0.0), (0.0, 0.5), (0.3, -0.4), (0.0, 0.0)])
def test_coverage_has_the_area_of_the_capsule(end: tuple[float, float]) -> None:
    radius = 0.3
    share = coverage(capsule((-end[0], -end[1]), end, radius)).mean().item()
    area = math.pi * radius**2 + 4 * radius * math.hypot(*end)
    assert share == pytest.approx(area / 4, rel=0.05)  # the picture is 2 x 2 units large


def test_coverage_is_one_inside_and_zero_outside_with_x_to_the_right() -> None:
    mask = coverage(capsule((-0.8, -0.8), (0.8, -0.8), 0.15))[0]  # along the upper edge
    assert mask[3, 2:-2].min() > 0.9 and mask[3].min() < 0.5  # its round ends lie at +-.95
    assert mask[16:].max() < 1e-6


def test_overlapping_capsules_are_not_counted_twice() -> None:
    one = capsule((-0.5, 0.0), (0.5, 0.0), 0.2)
    two = Skeletons(one.vertices, one.radii.expand(1, 2), torch.tensor([[0, 1], [1, 0]]))
    assert torch.allclose(coverage(one), coverage(two))


def test_pose_stays_within_the_stated_limits() -> None:
    skeletons = capsule((0.0, 0.0), (0.5, 0.0), 0.1).pick(torch.zeros(500, dtype=torch.long))
    look = Look(jitter=0.0, rotation=0.25, contrast=(0.3, 0.4))
    posed = pose(skeletons, look, torch.Generator().manual_seed(0))
    along = posed.vertices[:, 1] - posed.vertices[:, 0]
    scale = torch.linalg.vector_norm(along, dim=1) / 0.5
    angle = torch.atan2(along[:, 1], along[:, 0])
    assert 0.85 <= scale.min() < 0.9 and 1.1 < scale.max() <= 1.15
    assert -0.25 <= angle.min() < -0.2 and 0.2 < angle.max() <= 0.25
    assert 0.1 < posed.vertices[:, 0].abs().max() <= 0.12
    assert posed.radii.min() >= 0.08 and posed.radii.max() <= 0.12


def test_a_batch_shares_its_first_chunk_with_a_smaller_one() -> None:
    """Images are rendered 256 at a time: more images later change nothing about earlier ones."""
    look = Look(jitter=0.02, rotation=0.2, contrast=(0.3, 0.5))
    one = capsule((-0.5, 0.0), (0.5, 0.2), 0.1)
    few, many = (
        render(one.pick(torch.zeros(n, dtype=torch.long)), look, torch.Generator().manual_seed(3))
        for n in (256, 300)
    )
    assert many.shape == (300, 3, 32, 32)
    assert torch.equal(many[:256], few)

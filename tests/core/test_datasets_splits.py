"""Splits of the benchmark's datasets: published sizes, and members that never change."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import ConfigError
from core.config.datasets import Entry, entries
from core.datasets import miniature
from core.datasets.splits import divide, each, stratified


@pytest.mark.parametrize("name", entries())
def test_the_registry_adds_up(name: str) -> None:
    entry = entries()[name]
    assert miniature.sizes(entry) == entry.splits


def published() -> dict[str, dict[str, int]]:
    """Train, validation and test images as the two papers have them."""
    return {
        "aircraft": {"train": 3334, "val": 3333, "test": 1000},
        "cars": {"train": 6922, "val": 1222, "test": 1000},
        "caltech101": {"train": 5899, "val": 1042, "test": 1000},
        "flowers": {"train": 1020, "val": 1020, "test": 1000},
        "pets": {"train": 3128, "val": 552, "test": 1000},
        "ucmerced": {"train": 1428, "val": 252, "test": 420},
    }


@pytest.mark.parametrize("name", published())
def test_sizes_are_the_published_ones(name: str) -> None:
    assert entries()[name].splits == published()[name]


@pytest.mark.parametrize(("name", "images"), [("cub", 5794), ("dogs", 8580), ("imagenette", 3925)])
def test_whole_official_test_parts(name: str, images: int) -> None:
    assert entries()[name].splits["test"] == entries()[name].parts["test"] == images


def like(entry: Entry) -> dict[str, list[tuple[str, int]]]:
    """Parts of the real sizes, with class sizes that differ a little."""
    parts = {}
    for part, images in entry.parts.items():
        weights = [50 + (7 * label) % 11 for label in range(entry.classes)]
        whole = [images * w // sum(weights) for w in weights]
        for label in range(images - sum(whole)):
            whole[label % entry.classes] += 1
        labels = [label for label, count in enumerate(whole) for _ in range(count)]
        parts[part] = [(f"{part}/{i:05d}", label) for i, label in enumerate(labels)]
    return parts


GOLDEN = {
    "aircraft": "e9627a303a6404d5",
    "caltech256": "25b4e70f81456b57",
    "cars": "2a9831ffadd814d8",
    "cub": "0fa67150d83dbf13",
    "dogs": "34d95fbb152bd891",
    "imagenette": "7156e22baab8b62b",
    "caltech101": "15e3e4f2f2a061db",
    "flowers": "14617ff911e0b304",
    "pets": "0f7e4bd73561bdc3",
    "ucmerced": "6de22f057da0526e",
}


@pytest.mark.parametrize("name", entries())
def test_membership_never_changes(name: str) -> None:
    """Golden hashes: a library version that drew other images would change every result."""
    splits = divide(like(entries()[name]), entries()[name])
    assert {split: len(rows) for split, rows in splits.items()} == entries()[name].splits
    text = "".join(f"{split} {path}\n" for split, rows in splits.items() for path, _ in rows)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN[name]


def test_membership_is_that_of_scikit_learn() -> None:
    """The indices scikit-learn 1.9.1's stratified train_test_split draws for these labels."""
    labels = [0] * 7 + [1] * 12 + [2] * 5 + [3] * 9
    few, rest = stratified(labels, 10, 23, 0)
    assert few.tolist() == [23, 8, 30, 17, 26, 2, 31, 18, 10, 6]
    assert sorted([*few.tolist(), *rest.tolist()]) == list(range(33))
    kept, held = stratified(labels, 28, 5, 42)
    assert held.tolist() == [13, 25, 11, 6, 23] and len(kept) == 28


@given(
    counts=st.lists(st.integers(4, 60), min_size=2, max_size=12),
    share=st.floats(0.1, 0.9),
    seed=st.integers(0, 99),
)
def test_stratified_keeps_proportions(counts: list[int], share: float, seed: int) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    take = max(1, int(share * len(labels)))
    one, other = stratified(labels, take, len(labels) - take, seed)
    assert len(one) == take
    assert sorted([*one, *other]) == list(range(len(labels)))
    drawn = Counter(labels[i] for i in one)
    for label, count in enumerate(counts):
        assert abs(drawn[label] - count * take / len(labels)) < 1


@given(counts=st.lists(st.integers(6, 30), min_size=2, max_size=9), seed=st.integers(0, 99))
def test_each_takes_as_many_of_every_class(counts: list[int], seed: int) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    one, other = each(labels, 5, seed)
    assert set(Counter(labels[i] for i in one).values()) == {5}
    assert sorted([*one, *other]) == list(range(len(labels)))


def test_too_few_images_to_split() -> None:
    with pytest.raises(ConfigError, match="expected at least 9 images to split, got 4"):
        stratified([0, 0, 1, 1], 5, 4, 0)
    with pytest.raises(ConfigError, match="class 1: expected more than 2 images, got 2"):
        each([0, 0, 0, 1, 1], 2, 0)


def test_the_first_images_are_a_fair_sample() -> None:
    """Measurements on the first n images must not see the first classes only."""
    splits = divide(like(entries()["dogs"]), entries()["dogs"])
    for rows in splits.values():
        assert len({label for _, label in rows[:600]}) > 100

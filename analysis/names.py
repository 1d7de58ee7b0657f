"""How models, datasets, settings and metrics are called and ordered in the paper's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from core.config import show_strength

MODELS = {
    "vit": "ViT",
    "swin": "SWIN",
    "cnx": "CNX",
    "r50": "R50",
    "clipvit": "ClipViT",
    "clipcnx": "ClipCNX",
    "robvit": "RobViT",
    "robswin": "RobSWIN",
    "robcnx": "RobCNX",
    "robr50": "RobR50",
}
DATASETS = {
    "aircraft": "Aircraft",
    "caltech256": "Caltech",
    "cars": "Cars",
    "cub": "Cub",
    "dogs": "Dogs",
    "imagenette": "ImageNette",
}
SETTINGS = ("standard", "fix", "sched", "auto", "uniform")
METRICS = ("clean", "adv", "expected")
ATTACKS = {"apgd-ce": "APGD", "autoattack": "AutoAttack"}


def model_name(backbone: str) -> str:
    """'swin' -> 'SWIN'; a backbone the paper does not have keeps its own name."""
    return MODELS.get(backbone, backbone)


def dataset_name(dataset: str) -> str:
    """'caltech256' -> 'Caltech'; a folder is called by its last part."""
    return DATASETS.get(dataset, dataset.rstrip("/").rsplit("/", 1)[-1])


def strength_name(epsilon: float) -> str:
    """A strength in 255ths as '4/255' (0 stays '0')."""
    return show_strength(Fraction(str(epsilon)) / 255)


def in_order(found: Iterable[str], first: Sequence[str]) -> list[str]:
    """Distinct names: the known ones in the paper's order, then the others as they came."""
    names = list(dict.fromkeys(found))
    return [name for name in first if name in names] + [n for n in names if n not in first]


def models_in_order(found: Iterable[str]) -> list[str]:
    return in_order(found, tuple(MODELS.values()))


def datasets_in_order(found: Iterable[str]) -> list[str]:
    return in_order(found, tuple(DATASETS.values()))


def settings_in_order(found: Iterable[str]) -> list[str]:
    return in_order(found, SETTINGS)

"""How models, datasets, settings and metrics are called and ordered in the paper's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from core.config.strength import Norm

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
ROBUST = ("RobViT", "RobSWIN", "RobCNX", "RobR50")
"""Models whose weights were trained adversarially."""
DATASETS = {
    "aircraft": "Aircraft",
    "caltech256": "Caltech",
    "cars": "Cars",
    "cub": "Cub",
    "dogs": "Dogs",
    "imagenette": "ImageNette",
    # The sister benchmark's (arXiv 2508.14079).
    "caltech101": "Caltech101",
    "flowers": "Flowers",
    "pets": "Pets",
    "ucmerced": "UCMerced",
}
SETTINGS = ("none", "standard", "fix", "sched", "auto", "uniform")
METRICS = ("clean", "adv", "expected")
CORRUPTED = "corrupted"
"""The one metric of an evaluation under common corruptions."""
ACCURACY = "accuracy"
"""Share of right images: the metric of a user's kind of evaluation that declares no others."""
NORMS: dict[Norm, str] = {"linf": "l-inf", "l2": "l2", "l1": "l1"}


def model_name(backbone: str) -> str:
    """'swin' -> 'SWIN'; a backbone that is not in the paper keeps its name."""
    return MODELS.get(backbone, backbone)


def dataset_name(dataset: str) -> str:
    """'caltech256' -> 'Caltech'; a folder is named by the last part of its path."""
    return DATASETS.get(dataset, dataset.rstrip("/").rsplit("/", 1)[-1])


def in_order(found: Iterable[str], first: Sequence[str]) -> list[str]:
    """Distinct names: those in `first` in its order, then the others in theirs."""
    names = list(dict.fromkeys(found))
    return [name for name in first if name in names] + [n for n in names if n not in first]


def models_in_order(found: Iterable[str]) -> list[str]:
    return in_order(found, tuple(MODELS.values()))


def datasets_in_order(found: Iterable[str]) -> list[str]:
    return in_order(found, tuple(DATASETS.values()))


def settings_in_order(found: Iterable[str]) -> list[str]:
    return in_order(found, SETTINGS)


def paper_order(
    found: Iterable[tuple[Any, ...]], fields: Sequence[str], settings: Sequence[str] = SETTINGS
) -> list[tuple[Any, ...]]:
    """Distinct tuples sorted by their `fields`: models, datasets, metrics and settings in the
    paper's order, strengths and seeds ascending, other fields in the order found."""
    orders: dict[str, Callable[[Iterable[Any]], list[Any]]] = {
        "model": models_in_order,
        "dataset": datasets_in_order,
        "metric": lambda values: in_order(values, METRICS),
        "setting": lambda values: in_order(values, settings),
        "strength": lambda values: sorted(set(values)),
        "seed": lambda values: sorted(set(values)),
    }
    tuples = list(dict.fromkeys(found))
    ranks = []
    for field, values in zip(fields, zip(*tuples, strict=True), strict=False):
        ordered = orders[field](values) if field in orders else list(dict.fromkeys(values))
        ranks.append({value: rank for rank, value in enumerate(ordered)})
    return sorted(tuples, key=lambda t: [rank[value] for rank, value in zip(ranks, t, strict=True)])

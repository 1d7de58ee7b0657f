"""The Guide's design: protocols, backbones, losses and datasets, by their published names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import product
from typing import Any, NamedTuple

from core.config.registry import backbones

METRICS = ("clean", "linf", "l2", "l1", "common")
PROTOCOLS = ("FFT (50 epochs)", "FFT (5 epochs)", "LP (50 epochs)")
PROTOCOL = re.compile(r"(FFT|LP|LoRA) \((\d+) epochs\)", re.ASCII)
LOSSES = ("Classic AT", "TRADES")
DATASETS = {
    "caltech101": "caltech101",
    "cars": "stanford_cars",
    "aircraft": "fgvc-aircraft-2013b",
    "flowers": "flowers-102",
    "pets": "oxford-iiit-pet",
    "ucmerced": "uc-merced-land-use-dataset",
}
"""Our name -> the published one."""
SIZES = ("large", "medium", "small")
SIZE_LIMITS = {"large": 50e6, "medium": 20e6, "small": 0.0}
"""Size class -> minimum number of parameters."""
FACTORS = ("size", "type", "loss", "pretraining")
"""Properties in which configurations differ, besides the backbone itself."""
CONFIGURATION = ["protocol", "backbone", "loss"]
CELL = [*CONFIGURATION, "dataset"]
PROTOCOL_NAMES = {"full": "FFT", "linear": "LP", "lora": "LoRA"}
LOSS_NAMES = {"at": "Classic AT", "trades": "TRADES"}
FAMILIES = {
    "attention": "fully attention",
    "convolution": "fully convolutional",
    "hybrid": "hybrid",
}


class Cell(NamedTuple):
    """One configuration on one dataset."""

    protocol: str
    backbone: str
    loss: str
    dataset: str


class Facts(NamedTuple):
    """Properties of a backbone; '' if unknown."""

    name: str
    size: str
    type: str
    pretraining: str


def all_cells() -> list[Cell]:
    """All cells of the published benchmark."""
    return [Cell(*one) for one in product(PROTOCOLS, known_facts(), LOSSES, DATASETS.values())]


def cell_of(config: Mapping[str, Any], setting: str) -> Cell:
    """The cell of a run. config: as in a manifest."""
    kind = PROTOCOL_NAMES[config["protocol"]]
    objective = config["objective"]
    loss = LOSS_NAMES.get(objective["kind"], objective["kind"])
    if objective["kind"] == "trades" and objective["beta"] != 1:
        loss += f" (beta {objective['beta']:g})"
    if setting != "fix":
        loss = setting if setting == "standard" else f"{loss}, {setting}"
    return Cell(
        f"{kind} ({config['epochs']} epochs)",
        published_name(config["backbone"]),
        loss,
        published_dataset(config["dataset"]),
    )


def published_dataset(name: str) -> str:
    """The published name of one of our datasets; the last part of a path to another one."""
    return DATASETS.get(name, name.rstrip("/").rpartition("/")[2])


def our_dataset(name: str) -> str:
    """Our name of a published dataset; other names stay as they are."""
    return next((ours for ours, theirs in DATASETS.items() if theirs == name), name)


def published_name(backbone: str) -> str:
    """The published name of one of our backbones; other names stay as they are."""
    entry = backbones().get(backbone)
    if entry is None:
        return backbone
    return entry.guide or (entry.timm if entry.timm in known_facts() else backbone)


@cache
def our_names() -> Mapping[str, str]:
    """Published name of a backbone -> ours."""
    return {published_name(name): name for name in backbones()}


def facts(backbone: str) -> Facts:
    """The properties of a backbone by its published name: the published ones if there are any, even
    if the registry differs; else the registry's."""
    if backbone in known_facts():
        return known_facts()[backbone]
    entry = backbones().get(backbone)
    if entry is None or entry.params is None:
        return Facts(backbone, "", "", "")
    return Facts(backbone, size_of(entry.params), FAMILIES.get(entry.family, ""), entry.pretraining)


def params(backbone: str) -> int | None:
    """Number of parameters of a backbone without its head, by its published name; None if
    unknown."""
    entry = backbones().get(our_names().get(backbone, backbone))
    return entry.params if entry else None


def size_of(params: int) -> str:
    """The size class of a backbone by its number of parameters."""
    return next(name for name, least in SIZE_LIMITS.items() if params >= least)


@cache
def known_facts() -> Mapping[str, Facts]:
    lines = csv.DictReader(shipped("backbones.csv").read_text("utf-8").splitlines())
    columns = ("backbone_name", "model_size", "model_type", "pre_training_strategy")
    return {line["backbone"]: Facts(*(line[name] for name in columns)) for line in lines}


def shipped(name: str) -> Traversable:
    return resources.files("analysis").joinpath("published", "guide", name)

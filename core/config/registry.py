"""Names that a config may use: backbones (backbones.yaml, and all of timm's ids) and datasets.

Torch-free, so that planning finds typos: timm's ids are read from its source files without
importing it.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from core.config import own_code
from core.config.datasets import entries


class Checkpoint(BaseModel):
    """A file in <root>/weights with weights that timm does not have, and where to get it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    url: str | None = None


class Backbone(BaseModel):
    """How to build one backbone and where its weights are; backbones.yaml explains the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timm: str
    family: str = ""
    pretraining: str = ""
    reference: str = ""
    licence: str = ""
    guide: str | None = None
    params: int | None = None
    gflops: float | None = None
    lora: tuple[str, ...] = ()
    group_norm: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    guide_norm: Literal["imagenet"] | None = None
    checkpoint: Checkpoint | None = None
    note: str = ""


@cache
def backbones() -> dict[str, Backbone]:
    """Shorthand -> backbone, in the order of backbones.yaml."""
    text = resources.files("core.config").joinpath("backbones.yaml").read_text("utf-8")
    entries: dict[str, dict[str, Any]] = yaml.load(text, yaml.CSafeLoader)
    return {name: Backbone(**{"timm": name, **entry}) for name, entry in entries.items()}


@cache
def _shorthands() -> dict[str, str]:
    """timm id -> shorthand, for entries that are plain timm models."""
    return {
        entry.timm: name
        for name, entry in backbones().items()
        if entry.group_norm is None and entry.mean is None and entry.checkpoint is None
    }


def canonical_backbone(name: object) -> object:
    """One spelling per backbone: a timm id that has a shorthand becomes the shorthand."""
    return _shorthands().get(name, name) if isinstance(name, str) else name


def backbone(name: str) -> Backbone:
    """The entry of a shorthand, or a plain one for any other timm id."""
    return backbones().get(name) or Backbone(timm=name)


@cache
def _timm_sources() -> tuple[str, ...]:
    spec = importlib.util.find_spec("timm")
    places = (spec and spec.submodule_search_locations) or ()
    files = (path for place in places for path in Path(place, "models").glob("*.py"))
    return tuple(path.read_text("utf-8", errors="replace") for path in files)


_PRETRAINED = re.compile(r"""["']([a-z][a-z0-9_]+\.[a-z0-9_]+)["']\s*:\s*_""")
"""A row of a table of pretrained weights in timm's source: 'resnet50.a1_in1k': _cfg(...)."""


@cache
def timm_ids() -> frozenset[str]:
    """Every architecture and pretrained tag of the installed timm, without importing torch."""
    found: set[str] = set()
    for text in _timm_sources():
        found.update(re.findall(r"@register_model\s+def (\w+)\(", text))
        found.update(_PRETRAINED.findall(text))
    return frozenset(found)


@cache
def _hub_repos(text: str) -> dict[str, str]:
    """timm id -> its repository on the Hugging Face hub, for those in the organisation `timm` that
    a file of timm's source names."""
    found = {}
    text = re.sub(r"(?m)^\s*#.*$", "", text)
    rows = [*_PRETRAINED.finditer(text)]
    ends = [*(row.start() for row in rows[1:]), len(text)]
    for row, end in zip(rows, ends, strict=False):
        repo = re.search(r"""hf_hub_id\s*=\s*["'](timm/[^"']*)["']""", text[row.end() : end])
        if repo:
            found[row[1]] = repo[1] if repo[1] != "timm/" else f"timm/{row[1]}"
    return found


@cache
def hub_repo(name: str) -> str | None:
    """The Hugging Face repository from which timm downloads a backbone's pretrained weights; None
    if unknown (local checkpoints, ids without a tag, the few outside the organisation `timm`)."""
    entry = backbone(name)
    if entry.checkpoint:
        return None
    # To search all 80 files takes 60 ms.
    named = (_hub_repos(text) for text in _timm_sources() if entry.timm in text)
    return next((repos[entry.timm] for repos in named if entry.timm in repos), None)


def backbone_problem(name: str) -> str | None:
    """Why `name` is not a backbone ('unknown backbone ...'); None if it is a known one or an import
    path."""
    if own_code.is_own(name) or name in backbones() or name in timm_ids():
        return None
    architecture, _, tag = name.partition(".")
    known = timm_ids()
    if architecture in known:
        tags = sorted(i for i in known if i.startswith(f"{architecture}."))
        return f"unknown weights '{tag}' of '{architecture}' (timm has: {', '.join(tags[:6])})"
    close = difflib.get_close_matches(name, [*backbones(), *known], n=3, cutoff=0.5)
    hint = f", nearest: {', '.join(close)}" if close else ""
    return f"unknown backbone '{name}'{hint}"


_PATCH = re.compile(r"patch(\d+)")


def size_problem(name: str, image_size: int) -> str | None:
    """Why a backbone cannot take square images of `image_size` pixels; None if no reason is known.

    Patches tile the image from one corner; if the size is no multiple of theirs, the network
    silently ignores the pixels left over at the opposite edges.
    """
    found = None if own_code.is_own(name) else _PATCH.search(backbone(name).timm)
    patch = int(found[1]) if found else 1
    below = image_size - image_size % patch
    if below == image_size:
        return None
    near = f"{below} or {below + patch}" if below else str(patch)
    return f"expected a multiple of {patch}, the patch of {name}, got {image_size}; nearest: {near}"


PROCEDURAL = {"glyph": 64, "plane": 32, "source": 64}
"""Datasets drawn by core.data.drawn -> number of classes; they need nothing on disk."""
SYNTHETIC = {"fake": 10}
"""Noise images for smoke tests -> number of classes; they need nothing on disk."""
MADE = ("demo_letters", "demo_fashion")
"""Folders of real images in the store's data folder, which `sweep demo --real` makes."""


def known_classes(dataset: str) -> int | None:
    """The number of classes of a known dataset; None if `dataset` is a folder of the user's."""
    drawn = PROCEDURAL | SYNTHETIC
    return drawn.get(dataset) or (entries()[dataset].classes if dataset in entries() else None)


def dataset_problem(name: str) -> str | None:
    """Why `name` cannot be a dataset; None if it is a known name or a path, which is checked when
    it is read."""
    known = (*PROCEDURAL, *SYNTHETIC, *MADE, *entries())
    if name in known or "/" in name:
        return None
    if os.path.isdir(name):
        return f"'{name}' is a folder here, write its full path: {os.path.abspath(name)}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f", did you mean '{close[0]}'?" if close else f" (known: {', '.join(known)});"
    return f"unknown dataset '{name}'{hint} A folder of your own is given by its full path"

"""Names a config may use: backbone shorthands (backbones.yaml) and the datasets we know.

Torch-free, so that a typo is found while planning; timm's own ids are read from its source files
without importing it.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from core.datasets.entry import entries


class Backbone(BaseModel):
    """How to build one backbone with timm. mean and std are None where timm's own config holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timm: str
    family: str = ""
    reference: str = ""
    group_norm: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@cache
def backbones() -> dict[str, Backbone]:
    """Shorthand -> backbone, in the order of backbones.yaml."""
    text = resources.files("core").joinpath("backbones.yaml").read_text("utf-8")
    return {name: Backbone(**entry) for name, entry in yaml.safe_load(text).items()}


@cache
def _shorthands() -> dict[str, str]:
    """timm id -> shorthand, for entries that are plain timm models."""
    return {
        entry.timm: name
        for name, entry in backbones().items()
        if entry.group_norm is None and entry.mean is None
    }


def canonical_backbone(name: object) -> object:
    """One spelling per backbone: a timm id that has a shorthand becomes the shorthand."""
    return _shorthands().get(name, name) if isinstance(name, str) else name


def backbone(name: str) -> Backbone:
    """The entry of a shorthand, or a plain one for any other timm id."""
    return backbones().get(name) or Backbone(timm=name)


@cache
def timm_ids() -> frozenset[str]:
    """Every architecture and pretrained tag of the installed timm, without importing torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    found: set[str] = set()
    for path in Path(spec.submodule_search_locations[0], "models").glob("*.py"):
        text = path.read_text("utf-8", errors="replace")
        found.update(re.findall(r"@register_model\s+def (\w+)\(", text))
        found.update(re.findall(r"""["']([a-z][a-z0-9_]+\.[a-z0-9_]+)["']\s*:\s*_""", text))
    return frozenset(found)


def backbone_problem(name: str) -> str | None:
    """Why `name` is no backbone ('unknown backbone ..., did you mean ...'), None if it is one."""
    if name in backbones() or name in timm_ids():
        return None
    architecture, _, tag = name.partition(".")
    known = timm_ids()
    if architecture in known:
        tags = sorted(i for i in known if i.startswith(f"{architecture}."))
        return f"unknown weights '{tag}' of '{architecture}' (timm has: {', '.join(tags[:6])})"
    close = difflib.get_close_matches(name, [*backbones(), *known], n=3, cutoff=0.5)
    hint = f", nearest: {', '.join(close)}" if close else ""
    return f"unknown backbone '{name}'{hint}"


PROCEDURAL = ("glyph", "plane", "source")
"""Drawn by core.procedural; need nothing on disk."""
SYNTHETIC = ("fake",)
"""Noise images for smoke tests; need nothing on disk."""


def dataset_problem(name: str) -> str | None:
    """Why `name` can be no dataset, None if it may be one (a path is checked when it is read)."""
    known = (*PROCEDURAL, *SYNTHETIC, *entries())
    if name in known or "/" in name:
        return None
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f", did you mean '{close[0]}'?" if close else f" (known: {', '.join(known)})"
    return f"unknown dataset '{name}'{hint} A folder is given as a path: ./{name}"

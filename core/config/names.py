"""How runs are named: the readable part of an id, and the name of a run whose weights another
uses."""

from __future__ import annotations

from functools import cache

from core.config.parts import Protocol
from core.config.strength import Strength
from core.config.values import safe_name

OF_RUN = "run:"
"""Prefix of a run's id in the field `weights`."""


def parent_of(weights: str) -> str | None:
    """Id of the run that `weights` names; None if it names no run."""
    return weights.removeprefix(OF_RUN) if weights.startswith(OF_RUN) else None


@cache
def slug_of(
    backbone: str, dataset: str, strength: Strength | None, protocol: Protocol, setting: str
) -> str:
    """A run's slug without the seed; cached, since many runs of a grid share it."""
    parts = [backbone, dataset.rstrip("/").rsplit("/", 1)[-1]]
    if strength is not None:
        parts.append(strength.slug)
    if protocol == "lora":
        parts.append("lora")
    parts.append(setting.replace(";", "_").replace("=", ""))
    return "-".join(map(safe_name, parts))

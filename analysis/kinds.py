"""How tables show each kind of evaluation: its name, its metrics, and in which table.

A kind that is not listed is shown under its own name, with the metrics that its class declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.names import ACCURACY, CORRUPTED, METRICS

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of evaluation, as frames and tables show it."""

    label: Callable[[Config], str]
    """Name of an evaluation in tables: 'APGD-10'."""
    metrics: tuple[str, ...] = METRICS
    title: str = ""
    """Title of its separate table; '' for attacks, which the main tables show."""
    about: Callable[[Config], str] = lambda config: ""
    """The end of a table's note that begins 'Accuracy in % on the test split; ': how the numbers
    were measured."""
    by_distance: bool = False
    """Whether it measures a distance per image, which makes expected accuracy an exact integral."""

    @property
    def at_strengths(self) -> bool:
        """Whether it measures accuracy at strengths of a norm."""
        return self.metrics[: len(METRICS)] == METRICS


def _corruptions(config: Config) -> str:
    every = " (all)" if config.get("per_image") == "all" else ""
    return f"Corruptions-{config.get('severity', '?')}{every}"


def _types(config: Config) -> str:
    per_image = "all on every image" if config.get("per_image") == "all" else "one per image"
    return f"eleven types of severity {config.get('severity', '?')}, {per_image}"


def _by_steps(name: str) -> Callable[[Config], str]:
    return lambda config: f"{name}-{config.get('steps', '?')}"


def _integrated(config: Config) -> str:
    return "" if config.get("prior") else "expected is the exact integral over distances"


KINDS: Mapping[str, Kind] = {
    "apgd-ce": Kind(_by_steps("APGD")),
    "autoattack": Kind(_by_steps("AutoAttack")),
    "fmn": Kind(_by_steps("FMN"), about=_integrated, by_distance=True),
    "corruptions": Kind(_corruptions, (CORRUPTED,), "Common corruptions", _types),
}
UNKNOWN = Kind(lambda config: "")
"""Kind of an evaluation of which only the id is known; its metrics are missing."""


def kind_of(config: Config) -> Kind:
    """The kind of an evaluation, by its config in a record or manifest."""
    name = config.get("attack")
    if not isinstance(name, str):
        return UNKNOWN
    if name in KINDS:
        return KINDS[name]
    label = name.rpartition(":")[2]
    metrics = tuple(config.get("metrics") or (ACCURACY,))
    return Kind(lambda config: label, metrics, title=label)

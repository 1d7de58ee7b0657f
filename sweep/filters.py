"""`--only backbone=swin dataset=cars,cub`: which of a grid's runs are meant.

Values of one key are alternatives, keys restrict each other. A key is a field of RunConfig,
`setting` (also spelled `schedule`) or `id`; the caller adds what it knows besides, as `state`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

from core.config import ConfigError, RunConfig, fields_of, nearest, show_strength
from sweep.expand import Run, canonical

SECTIONS = {name.rpartition(".")[0] for name in fields_of(RunConfig)} - {"", "schedule"}
KEYS = (*(name for name in fields_of(RunConfig) if name not in SECTIONS), "setting", "id")


@dataclass(frozen=True)
class Facet:
    """One more key to filter by: its value of a run, and every value that makes sense."""

    value: Callable[[Run], str]
    known: Collection[str]


def select(
    runs: Iterable[Run], filters: Sequence[str], extra: Mapping[str, Facet] | None = None
) -> list[Run]:
    """The runs that match every filter `key=value,value,...`, in order.

    Raises ConfigError where a key is unknown, or no run has a value or all of them together. A
    value of an `extra` key need only be known: that no run has failed is no mistake.
    """
    left, extra = list(runs), extra or {}
    wanted = _read(filters, (*KEYS, *extra))
    facets = {key: extra.get(key) or _facet(key, left) for key in wanted}
    problems = []
    for key, values in wanted.items():
        known = {canonical(value) for value in facets[key].known}
        for value in values:
            if canonical(value) not in known:
                near = nearest(value, facets[key].known)
                problems.append(f"--only {key}={value}: no run has this value{near}")
    if problems:
        raise ConfigError(*problems)
    for key, values in wanted.items():
        meant = {canonical(value) for value in values}
        left = [run for run in left if canonical(facets[key].value(run)) in meant]
    if wanted and not left and not wanted.keys() & extra.keys():
        raise ConfigError(f"--only {' '.join(filters)}: no run has all of these values")
    return left


def _read(filters: Sequence[str], keys: Collection[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    problems = []
    for text in filters:
        key, _, values = text.partition("=")
        if not all(values.split(",")):
            problems.append(f"--only {text}: expected key=value or key=value,value")
        elif key not in keys:
            problems.append(f"--only {text}: unknown key '{key}'{nearest(key, keys)}")
        else:
            wanted.setdefault(key, []).extend(values.split(","))
    if problems:
        raise ConfigError(*problems)
    return wanted


def _facet(key: str, runs: Iterable[Run]) -> Facet:
    def value(run: Run) -> str:
        if key in ("setting", "schedule"):
            return run.setting
        if key == "id":
            return run.id
        found = reduce(getattr, key.split("."), run.config)
        return show_strength(found) if isinstance(found, Fraction) else str(found)

    return Facet(value, list(dict.fromkeys(map(value, runs))))

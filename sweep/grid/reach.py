"""Warnings about strengths before anything runs: likely typos, and those that no evaluation
measures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from core.config import EvalConfig, RunConfig, Strength
from core.config.evaluation import AtStrengths
from core.config.strength import in_pixels
from core.store.records import unit_grid
from sweep.grid.file import GridFile

FIELDS = frozenset({"epsilon_g", "epsilon", "epsilons"})
"""Last parts of the names of fields that hold strengths."""
_FRACTION = re.compile(r"((?:\d+ *\.\. *)?\d+ */ *)(\d+)")


def typos(file: GridFile) -> Iterator[str]:
    """A warning for each strength whose denominator looks like 255 but is another: 4/225."""
    for place in file.places:
        key = next((part for part in reversed(place) if isinstance(part, str)), "")
        if key.rpartition(".")[2] not in FIELDS:
            continue
        value: Any = file.data
        for part in place:
            value = value[part]
        match = _FRACTION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match and match[2] != "255" and get_close_matches(match[2], ["255"]):
            yield f"{file.source}:{file.line(place)}: {key}: {value}, did you mean {match[1]}255?"


def gaps(
    file: GridFile, evals: Sequence[EvalConfig], configs: Iterable[RunConfig]
) -> tuple[str, ...]:
    """One warning, with its place in the file, for each evaluation and eps_g whose cells in the
    tables would stay empty even if every run succeeds."""
    return tuple(
        line
        for epsilon_g, count in Counter(config.epsilon_g for config in configs).items()
        for number, item in enumerate(evals)
        if isinstance(item, AtStrengths) and item.norm == epsilon_g.norm
        for line in _gap(file, number, item, epsilon_g, count)
    )


def _gap(
    file: GridFile, number: int, item: AtStrengths, epsilon_g: Strength, count: int
) -> Iterator[str]:
    lost = _lost(item, epsilon_g)
    if not lost:
        return
    here = epsilon_g in item.epsilons
    absent = [epsilon_g] if not here else [e for e in _needed(epsilon_g) if e not in item.epsilons]
    named = ", ".join(map(str, absent[:3])) or "a multiple of 1/255"
    line = file.line(("evals", number, "epsilons"))
    plural = "s are" if count > 1 else " is"
    yield (
        f"{file.source}:{line or 1}: evals: {item.name} does not measure "
        f"{named + ', ...' * (len(absent) > 3)}: {count} run{plural} trained for "
        f"{epsilon_g}, whose {lost} accuracy will be missing"
    )


def _lost(item: AtStrengths, epsilon_g: Strength) -> str:
    """Which accuracies of a run will be missing from the tables; '' if none will."""
    if not epsilon_g:
        return ""
    if epsilon_g not in item.epsilons:
        return "adversarial and expected"
    needed, counts = _needed(epsilon_g), item.whole_curve and not item.by_distance
    uneven = counts and in_pixels(item.norm) and item.prior is None
    return "expected" if uneven and not (needed and {*needed} <= {*item.epsilons}) else ""


def _needed(epsilon_g: Strength) -> list[Strength]:
    """The strengths expected accuracy averages over; [] unless eps_g is a multiple of 1/255."""
    try:
        return [Strength(number, epsilon_g.norm) for number in unit_grid(epsilon_g.number)]
    except ValueError:
        return []

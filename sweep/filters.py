"""`--only backbone=swin dataset=cars,cub`: which of a grid's runs are meant.

Values of one key are alternatives, keys restrict each other. A key is a field of RunConfig,
`setting` (also spelled `schedule`) or `id`. Standard runs have no strength: their epsilon_g is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import reduce

from core.config import ConfigError, nearest, show_strength
from sweep.expand import Run
from sweep.fields import FIELDS, SECTIONS, canonical

KEYS = (*(name for name in FIELDS if name not in SECTIONS), "setting", "id")


def select(runs: Iterable[Run], filters: Sequence[str]) -> list[Run]:
    """The runs that match every filter `key=value,value,...`, in order.

    Raises ConfigError where a key is unknown, or no run has a value or all of them together.
    """
    left = list(runs)
    problems = []
    meant = {}
    for key, values in _read(filters).items():
        known = dict.fromkeys(_value(run, key) for run in left)
        absent = {canonical(value): value for value in values}
        meant[key] = set(absent)
        for value in known:
            absent.pop(canonical(value), None)
        for value in absent.values():
            problems.append(f"--only {key}={value}: no run has this value{nearest(value, known)}")
    if problems:
        raise ConfigError(*problems)
    for key, wanted in meant.items():
        left = [run for run in left if canonical(_value(run, key)) in wanted]
    if meant and not left:
        raise ConfigError(f"--only {' '.join(filters)}: no run has all of these values")
    return left


def _read(filters: Sequence[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    problems = []
    for text in filters:
        key, _, values = text.partition("=")
        if not all(values.split(",")):
            problems.append(f"--only {text}: expected key=value or key=value,value")
        elif key not in KEYS:
            problems.append(f"--only {text}: unknown key '{key}'{nearest(key, KEYS)}")
        else:
            wanted.setdefault(key, []).extend(values.split(","))
    if problems:
        raise ConfigError(*problems)
    return wanted


def _value(run: Run, key: str) -> str:
    """A run's value as text, as a user would write it."""
    if key in ("setting", "schedule", "schedule.name"):
        return run.setting
    found = run.id if key == "id" else reduce(getattr, key.split("."), run.config)
    return show_strength(found) if isinstance(found, Fraction) else str(found)

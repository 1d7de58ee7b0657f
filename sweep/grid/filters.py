"""`--only backbone=swin dataset=cars,cub`: select some of a grid's runs.

Values of one key are alternatives; a run must match every key. A key is a field of RunConfig,
`setting` (also spelled `schedule`) or `id`. Standard runs have epsilon_g 0. A value that some run
has is never split at its commas, since a folder's path may contain them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import reduce

from core.config import ConfigError, nearest
from sweep.grid.expansion import Run
from sweep.grid.fields import FIELDS, SECTIONS, canonical

KEYS = (*(name for name in FIELDS if name not in SECTIONS), "setting", "id")


def select_runs(runs: Iterable[Run], filters: Sequence[str]) -> list[Run]:
    """The runs that match every filter `key=value,value,...`, in order.

    Raises ConfigError if a key is unknown, or no run has a value or the combination of values.
    """
    left = list(runs)
    problems = []
    meant: dict[str, set[object]] = {}
    for key, text in _read(filters):
        values = dict.fromkeys(_value(run, key) for run in left)
        known = {canonical(value): value for value in values}
        for value in _split(text, known):
            meant.setdefault(key, set()).add(canonical(value))
            if not value:
                problems.append(f"--only {key}={text}: expected key=value or key=value,value")
            elif canonical(value) not in known:
                hint = nearest(value, known.values())
                problems.append(f"--only {key}={value}: no run has this value{hint}")
    if problems:
        raise ConfigError(*problems)
    for key, wanted in meant.items():
        left = [run for run in left if canonical(_value(run, key)) in wanted]
    if meant and not left:
        raise ConfigError(f"--only {' '.join(filters)}: no run has all of these values")
    return left


def _read(filters: Sequence[str]) -> list[tuple[str, str]]:
    """(key, values as written) of every filter."""
    problems = []
    for text in filters:
        key, equals, _ = text.partition("=")
        if not equals:
            problems.append(f"--only {text}: expected key=value or key=value,value")
        elif key not in KEYS:
            problems.append(f"--only {text}: unknown key '{key}'{nearest(key, KEYS)}")
    if problems:
        raise ConfigError(*problems)
    return [(key, values) for key, _, values in (text.partition("=") for text in filters)]


def _split(text: str, known: Collection[object]) -> Iterator[str]:
    """The values in `text`, split at commas, but never within a known value."""
    pieces = text.split(",")
    while pieces:
        sizes = range(len(pieces), 1, -1)
        size = next((n for n in sizes if canonical(",".join(pieces[:n])) in known), 1)
        yield ",".join(pieces[:size])
        pieces = pieces[size:]


def _value(run: Run, key: str) -> str:
    """A run's value as text, as a user would write it."""
    if key in ("setting", "schedule", "schedule.name"):
        return run.setting
    found = run.id if key == "id" else reduce(getattr, key.split("."), run.config)
    return str(found)

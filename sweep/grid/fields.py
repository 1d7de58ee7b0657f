"""Fields of RunConfig as a grid file sets them: names, values in any spelling, and places."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from core.config import RunConfig, fields_of, nearest, own_code, resolve_schedule
from core.config.names import parent_of
from core.config.registry import backbone_problem, canonical_backbone, dataset_problem
from sweep.grid.file import GridFile, Place

_INNER = ("code", "schedule.knobs", "objective.knobs")
"""Fields that only stored configs have."""
_SAME = frozenset({"backbone", "dataset", "image_size", "normalisation"})
"""Fields in which a run is always equal to its parent."""
FIELDS = (*(name for name in fields_of(RunConfig) if name not in _INNER), "schedule.name")
SECTIONS = {name.rpartition(".")[0] for name in FIELDS} - {"", "schedule"}
"""Fields that only group others. A schedule is not among them: it is one value, as presets have no
parts."""


@dataclass(frozen=True)
class Changes:
    """What `weights: {run: ...}` says of the parent: the fields in which it differs from the
    run."""

    fields: Choice

    def __str__(self) -> str:
        return str({key: str(value) for key, (value, _) in self.fields.items()})


Choice = dict[str, tuple[Any, Place]]
"""What one value of an axis sets: dotted field -> (value as written, its place in the file)."""
Axis = list[Choice]


def set_field(file: GridFile, key: str, value: Any, place: Place) -> Choice:
    """What `key: value` sets; a mapping sets each of its fields."""
    if key not in FIELDS:
        # The last part of a name is enough for the hint: 'lr' suggests 'optim.lr'.
        full = next((name for name in FIELDS if name.rpartition(".")[2] == key), key)
        file.problem(place, f"{key}: unknown field{nearest(full, FIELDS)}")
        return {}
    if isinstance(value, dict) and key in SECTIONS and not own_code.is_own(value.get("kind")):
        return union(file, value, place, key + ".")
    if key == "weights" and (isinstance(value, dict) or parent_of(str(value))):
        value = _changes(file, value, place)
    if problem := _problem_of(key, value):
        file.problem(place, f"{key}: {problem}")
    return {key: (value, place)}


def _changes(file: GridFile, given: Any, place: Place) -> Changes:
    changed = given.get("run") if isinstance(given, dict) and len(given) == 1 else None
    if not isinstance(changed, dict) or not changed:
        shape = "{run: {FIELD: VALUE, ...}}, the fields in which that run differs"
        file.problem(place, f"weights: expected {shape}, got {show(given)}")
        return Changes({})
    for name in _SAME.intersection(changed):
        line = f"weights.run: {name}: always the same as in the run itself, leave it out"
        file.problem((*place, "run", name), line)
    return Changes(union(file, changed, (*place, "run")))


def _problem_of(key: str, value: Any) -> str | None:
    """What is wrong with a backbone's or dataset's name or a schedule's label: RunConfig does not
    check these. None if nothing is."""
    if key == "backbone" and isinstance(value, str):
        return backbone_problem(value)
    if key == "dataset" and isinstance(value, str):
        return dataset_problem(value)
    if key == "schedule" and isinstance(value, dict) and "name" in value:
        return _problem_of("schedule.name", value["name"])
    if key == "schedule.name" and not (isinstance(value, str) and value.strip()):
        return f"expected a name for tables, got {show(value)}"
    return None


def union(file: GridFile, given: Mapping[str, Any], place: Place, prefix: str = "") -> Choice:
    """What all keys of a mapping set together."""
    whole: Choice = {}
    for key, value in given.items():
        join(file, whole, set_field(file, prefix + key, value, (*place, key)))
    return whole


def join(file: GridFile, into: Choice, more: Choice) -> None:
    """Add `more` to `into`. A field set twice, or as a whole and in part, is noted as a problem."""
    for key, (_, place) in more.items():
        for other, (_, earlier) in into.items():
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                name = "" if key == other else f" as '{other}'"
                file.problem(place, f"{key}: already set{name} on line {file.line(earlier)}")
    into |= more


def canonical(value: object) -> object:
    """One form for all spellings of a value: 1e-3, '0.001' and '1/1000' become equal."""
    text = str(value).strip()
    for number in (int, float, lambda ratio: float(Fraction(ratio.replace(" ", "")))):
        try:
            # Fraction('1e999999999') would not end; float reads every such text first.
            return number(text)
        except (ValueError, ZeroDivisionError):
            pass
    return canonical_backbone(text)


def matches(key: str, wanted: Any, choice: Choice) -> bool:
    """Whether `choice` sets `key` to the value an exclude names, in any spelling."""
    if key not in choice:
        return False
    given = choice[key][0]
    if key != "schedule":
        return canonical(wanted) == canonical(given)
    label = given.get("name") if isinstance(given, dict) else None
    epochs = choice["epochs"][0] if "epochs" in choice else RunConfig.model_fields["epochs"].default
    return wanted == label or _resolved(wanted, epochs) == _resolved(given, epochs)


def _resolved(schedule: object, epochs: Any) -> object:
    try:
        resolved = resolve_schedule(schedule, epochs)
    except (ValueError, TypeError):  # RunConfig reports it if the combination is kept
        return schedule
    return {"kind": "two_hinge", **resolved} if isinstance(resolved, dict) else resolved


def show(value: object) -> str:
    """A value as messages show it, shortened if long."""
    return "nothing" if value is None else reprlib.repr(value)

"""The keys of a grid file, one by one: what each holds, with every problem noted at its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from core.config import EvalConfig, RobustAccuracy, nearest
from core.config.evaluation_kinds import understood
from sweep.grid.fields import FIELDS, Axis, Choice, join, set_field, show, union
from sweep.grid.file import GridFile, Place

TABLES = (
    "1",
    "2",
    "3",
    "4",
    "6",
    "7",
    "8",
    "9",
    "10",
    "11",
    "12",
    "main",
    "margin",
    "attacks",
    "regret",
    "guide",
)
"""1 to 12: the paper's tables of accuracies. main: what a grid measured, the default. margin: the
margins. attacks: runs under several attacks. guide: those of the Guide (arXiv 2508.14079)."""
_COMPUTED = {"code", "metrics"}
"""What a stored evaluation of the user's own kind has besides its fields."""


def read_name(file: GridFile) -> str:
    name = file.data.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_][a-z0-9_-]{0,99}", name):
        wanted = "lower-case letters, digits, '_' and '-' (it names a folder)"
        file.problem(("name",), f"name: expected {wanted}, got {show(name)}")
    return str(name)


def read_evals(file: GridFile) -> tuple[EvalConfig, ...]:
    found: dict[str, EvalConfig] = {}
    for number, given in enumerate(section(file, "evals")):
        if computed := _COMPUTED.intersection(given if isinstance(given, dict) else ()):
            line = f"{min(computed)}: remove it, it is computed from the source of the kind"
            file.problem(("evals", number, min(computed)), f"evals: {line}")
            continue
        evaluation = understood(given)
        if isinstance(evaluation, EvalConfig):
            if evaluation.id in found:
                file.problem(("evals", number), "evals: the same evaluation is given twice")
            found[evaluation.id] = evaluation
            continue
        for key, line in evaluation:
            key = key or line.partition(":")[0]
            place = (int(step) if step.isdigit() else step for step in key.split("."))
            file.problem(("evals", number, *place), f"evals: {line}")
    return tuple(found.values()) or (RobustAccuracy(),)


def read_tables(file: GridFile) -> tuple[str, ...]:
    tables = section(file, "tables")
    for number, table in enumerate(tables):
        if isinstance(table, bool) or not isinstance(table, str | int):
            file.problem(("tables", number), f"tables: expected a name, got {show(table)}")
        elif str(table) not in TABLES:
            known = ", ".join(TABLES)
            file.problem(
                ("tables", number), f"tables: no table '{table}' (expected one of {known})"
            )
    return tuple(map(str, tables))


def read_axes(file: GridFile) -> list[Axis]:
    """The axes of grid and zip, in the order of the file."""
    grid = [_axis(file, key, v, ("grid", key)) for key, v in mapping(file, "grid").items()]
    zipped = _zip(file)
    order = list(file.data)
    late = "zip" in order and "grid" in order and order.index("grid") < order.index("zip")
    return [*grid, zipped] if late else [zipped, *grid]


def _zip(file: GridFile) -> Axis:
    columns = {key: _axis(file, key, v, ("zip", key)) for key, v in mapping(file, "zip").items()}
    columns = {key: column for key, column in columns.items() if column}
    if len(set(map(len, columns.values()))) > 1:
        lengths = ", ".join(f"{key} has {len(column)}" for key, column in columns.items())
        file.problem(("zip",), f"zip: expected lists of one length, {lengths}")
    rows: Axis = []
    for row in zip(*columns.values(), strict=False):
        rows.append({})
        for choice in row:
            join(file, rows[-1], choice)
    return rows


def _axis(file: GridFile, key: str, values: object, place: Place) -> Axis:
    bundled = key not in FIELDS and _is_bundle(values)
    if key not in FIELDS and not bundled:
        set_field(file, key, None, place)  # one problem for the key, not one for every value
        return []
    choices = _list(file, key, values, place)
    how = _bundle if bundled else set_field
    return [how(file, key, value, (*place, i)) for i, value in enumerate(choices)]


def _is_bundle(values: object) -> bool:
    """Whether these are mappings of fields, and not values of a field whose name is misspelled."""
    given = values if isinstance(values, list) else ()
    return any(field in FIELDS for value in given if isinstance(value, dict) for field in value)


def _bundle(file: GridFile, key: str, value: object, place: Place) -> Choice:
    """What one value sets on an axis whose name is no field."""
    if isinstance(value, dict):
        return union(file, value, place)
    file.problem(place, f"{key}: expected a mapping of fields, got {show(value)}")
    return {}


def read_choices(file: GridFile, key: str) -> dict[Place, Choice]:
    """Place -> mapping, for each mapping of `include` or `exclude`."""
    found: dict[Place, Choice] = {}
    for number, given in enumerate(section(file, key)):
        if isinstance(given, dict) and given:
            faults = file.faults
            choice = union(file, given, (key, number))
            # Without its faulty field an exclude would drop more than was meant.
            if key == "include" or file.faults == faults:
                found[key, number] = choice
        else:
            what = f"expected a mapping of fields, got {show(given)}"
            file.problem((key, number), f"{key}: {what}")
    return found


def check_exclude(file: GridFile, exclude: Mapping[Place, Choice], fields: Iterable[str]) -> None:
    known = {*fields, *mapping(file, "grid"), *mapping(file, "zip")}
    for key, (_, place) in (item for choice in exclude.values() for item in choice.items()):
        if key not in known:
            hint = nearest(key, sorted(known)) if known else ""
            file.problem(place, f"{key}: no axis of this grid{hint}")


def mapping(file: GridFile, key: str) -> Mapping[str, Any]:
    value = file.data.get(key, {})
    if isinstance(value, dict):
        return value
    file.problem((key,), f"{key}: expected a mapping, got {show(value)}")
    return {}


def section(file: GridFile, key: str) -> list[Any]:
    return _list(file, key, file.data[key], (key,)) if key in file.data else []


def _list(file: GridFile, key: str, value: object, place: Place) -> list[Any]:
    """`value` if it is a list that is not empty; else [], and the problem is noted."""
    if isinstance(value, list) and value:
        return value
    what = "the list is empty" if value == [] else f"expected a list, got {show(value)}"
    file.problem(place, f"{key}: {what}")
    return []

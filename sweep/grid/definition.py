"""From a grid file to its runs: a pure function of the file's text.

    grids/x.yaml --load--> Grid: the runs, in the file's order --plan.make--> Plan

The grammar, all of it (a field is a dotted RunConfig field such as `optim.lr`):

    name     the sweep's name and folder: lower-case letters, digits, '_' and '-'
    about    free: question, runs, gpu_hours, hardware, expect
    base     fields that hold for every run, dotted or nested
    grid     field -> list of values; all combinations, the last field turns fastest. Any other
             name -> list of mappings: an axis each value of which sets several fields at once
    zip      field -> list of values, all of one length; they advance together, as one axis that
             comes before or after those of grid, as in the file
    seeds    list of seeds; the very last axis
    exclude  list of mappings; a combination of grid, zip and seeds is dropped if it matches every
             field of one
    include  list of mappings; each is one more combination, laid over base and run with every
             seed; where there is no grid and no zip, these are the only runs
    evals    list of evaluations, each done on every run; by default robust accuracy by APGD-10
    tables   the tables this grid feeds, see TABLES
    tune     a search for hyper-parameters that comes before the runs, see sweep.grid.tune_block

A schedule is one value: a preset or a mapping, whose `name` labels it in tables. So is an objective
of the user's: `{kind: my_pkg.mod:Loss, gamma: 2}`.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import (
    ConfigError,
    EvalConfig,
    RobustAccuracy,
    RunConfig,
    Schedule,
    nearest,
    own_code,
)
from core.config.document import read_text
from core.config.evaluation import understood
from core.config.values import digest
from core.store.folders import Store
from sweep.grid import reach, tune_block
from sweep.grid.expansion import Found, Run, judge, product, report
from sweep.grid.fields import FIELDS, Axis, Choice, join, set_field, show, union
from sweep.grid.file import GridFile, Place
from sweep.grid.filters import select_runs
from sweep.grid.search import Search
from sweep.grid.tune_block import Tune

__all__ = ["Grid", "Run", "load_grid", "parse_grid", "select_runs", "shipped_grids"]

KEYS = (
    *("name", "about", "base", "grid", "zip", "include", "exclude", "seeds", "evals", "tables"),
    "tune",
)
TABLES = ("1", "2", "3", "4", "6", "7", "8", "9", "10", "11", "12", "main", "margin", "guide")
"""The paper's tables of accuracies; what a grid measured, as it is without the key tables; its
margins; and the analyses of the sister benchmark (arXiv 2508.14079)."""
_COMPUTED = {"code", "metrics"}
"""What a stored evaluation of an own kind says beside its fields."""
MOST_COMBINATIONS = 1_000_000


@dataclass(frozen=True)
class Grid:
    """A grid file, expanded. `shared`: combinations that are the same run as an earlier one."""

    name: str
    about: Mapping[str, Any]
    runs: tuple[Run, ...]
    shared: int
    tables: tuple[str, ...]
    text: str
    path: Path
    tune: Tune | None = None
    warnings: tuple[str, ...] = ()
    """What its tables will lack though every run is done, a line each."""
    searches: tuple[Search, ...] = ()
    """Those of `tune`, once `sweep.tune.winners.apply` has looked at them in a store; if all have a
    winner, the runs have taken it."""

    def command(self, verb: str, store: Store, *options: str) -> str:
        """`sweep VERB` on this grid and store, to be pasted into the shell that is here."""
        name = self.name if shipped_grids().get(self.name) == self.path else str(self.path)
        root = [] if store == Store.at() else ["--root", str(store.root)]
        return shlex.join(["sweep", verb, name, *root, *options])


def shipped_grids() -> dict[str, Path]:
    """Name -> path of the grids that come with the package."""
    here = Path(__file__).parents[1]
    # A wheel carries them inside this package; in a checkout they lie beside it.
    folder = here / "grids" if (here / "grids").is_dir() else here.parent / "grids"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_grid(path: str | Path) -> Grid:
    """The grid at `path`, or the shipped grid of that name. Raises ConfigError."""
    if not os.path.isfile(path):
        known = shipped_grids()
        if str(path) not in known:
            what = "a folder, not a grid file" if os.path.isdir(path) else "no such grid file"
            raise ConfigError(f"{path}: {what}{nearest(Path(path).stem, known)}")
        path = known[str(path)]
    return parse_grid(read_text(Path(path), str(path)), Path(path))


def parse_grid(text: str, path: Path) -> Grid:
    """The grid that `text` describes; `path` only names it.

    Raises ConfigError with every problem, one line each: `path:LINE: key: what is wrong`.
    """
    file = GridFile(text, str(path))
    for key in file.data:
        if key not in KEYS:
            file.problem((key,), f"{key}: unknown key{nearest(key, KEYS, shown=len(KEYS))}")
    name, about = _name(file), _mapping(file, "about")
    evals, tables = _evals(file), _tables(file)
    runs, shared = _distinct(
        file, (Run(found.config, found.setting, evals, id=found.id) for found in _expand(file))
    )
    _check_labels(file, runs)
    tune = tune_block.read(file)
    if tune:
        tune_block.check(file, tune)
    if not runs and not file.faults:
        file.problem(("exclude",), "exclude: drops every combination, no run is left")
    file.check()
    warnings = reach.gaps(file, evals, (run.config for run in runs))
    return Grid(name, about, runs, shared, tables, text, path, tune, warnings)


def _expand(file: GridFile) -> Iterator[Found]:
    """All that the file asks for, in order, the same run perhaps repeatedly."""
    base = union(file, _mapping(file, "base"), ("base",))
    seeds = [
        set_field(file, "seed", s, ("seeds", i)) for i, s in enumerate(_section(file, "seeds"))
    ]
    crossed = [axis for axis in _axes(file) if axis]
    axes = [*crossed, seeds] if seeds else crossed
    given = dict(base)
    for axis in axes:
        join(file, given, {key: item for choice in reversed(axis) for key, item in choice.items()})
    include, exclude = _choices(file, "include"), _choices(file, "exclude")
    _check_exclude(file, exclude, given.keys() - base.keys())
    count = math.prod(map(len, axes))
    if count > MOST_COMBINATIONS:
        file.problem(("grid",), f"grid: {count} combinations, at most {MOST_COMBINATIONS} are run")
    elif crossed or not include:
        yield from product(file, base, axes, exclude)
    for place, extra in include.items():
        yield from _included(file, base, extra, seeds, place)


def _included(
    file: GridFile, base: Choice, extra: Choice, seeds: Axis, place: Place
) -> Iterator[Found]:
    choice = {k: v for k, v in base.items() if not any(f"{k}.".startswith(f"{e}.") for e in extra)}
    join(file, choice, extra)
    for seed in [{}] if "seed" in extra or not seeds else seeds:
        verdict = judge(choice | seed, set(RunConfig.model_fields))
        report(file, ((at or place, line) for at, line in verdict.problems))
        if not verdict.problems:
            values = verdict.values | {"code": tuple(sorted(verdict.code))}
            config = RunConfig.model_construct(**values)
            yield Found(config, verdict.setting, config.id)


def _distinct(file: GridFile, runs: Iterable[Run]) -> tuple[tuple[Run, ...], int]:
    """The runs without repetitions, and how many of those there were."""
    found: dict[str, Run] = {}
    shared = 0
    for run in runs:
        other = found.setdefault(run.id, run)
        if other is run:
            continue
        shared += 1
        if other.config != run.config:
            both = f"{other.config.delta} and {run.config.delta}"
            file.problem((), f"{run.id}: two different runs have this id: {both}")
        elif other.setting != run.setting:
            both = f"'{other.setting}' and '{run.setting}'"
            file.problem(("grid",), f"schedule: {both} name the same run, {run.id}")
    return tuple(found.values()), shared


def _check_labels(file: GridFile, runs: Iterable[Run]) -> None:
    """Two schedules under one label in one cell of a table would be averaged as if seeds."""
    # Runs of one cell are of one length: of 100,000 runs few are compared, if any.
    named: dict[tuple[str, int], dict[int, Schedule]] = {}
    for run in runs:
        schedule = run.config.schedule
        named.setdefault((run.setting, run.config.epochs), {})[id(schedule)] = schedule
    given = {
        label
        for (label, epochs), found in named.items()
        for schedule in found.values()
        if own_code.is_own(schedule.kind) or label != schedule.label(epochs)
    }
    labels = {
        (label, epochs)
        for (label, epochs), found in named.items()
        if label in given and len({*map(digest, found.values())}) > 1
    }
    cells: dict[tuple[RunConfig, str], Run] = {}
    for run in (run for run in runs if (run.setting, run.config.epochs) in labels):
        cell = run.config.model_copy(update={"schedule": Schedule()}), run.setting
        other = cells.setdefault(cell, run)
        if other is not run:
            both = f"{other.id} and {run.id}"
            place = "grid", "schedule"
            file.problem(place, f"schedule: two schedules are called '{run.setting}': {both}")
            return


# The keys of a file, one by one.


def _name(file: GridFile) -> str:
    name = file.data.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_][a-z0-9_-]{0,99}", name):
        wanted = "lower-case letters, digits, '_' and '-' (it names a folder)"
        file.problem(("name",), f"name: expected {wanted}, got {show(name)}")
    return str(name)


def _evals(file: GridFile) -> tuple[EvalConfig, ...]:
    found: dict[str, EvalConfig] = {}
    for number, given in enumerate(_section(file, "evals")):
        if computed := _COMPUTED.intersection(given if isinstance(given, dict) else ()):
            line = f"{min(computed)}: is computed from the source of an own kind, remove it"
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


def _tables(file: GridFile) -> tuple[str, ...]:
    tables = _section(file, "tables")
    for number, table in enumerate(tables):
        if isinstance(table, bool) or not isinstance(table, str | int):
            file.problem(("tables", number), f"tables: expected a name, got {show(table)}")
        elif str(table) not in TABLES:
            known = ", ".join(TABLES)
            file.problem(("tables", number), f"tables: no table '{table}' (there are {known})")
    return tuple(map(str, tables))


def _axes(file: GridFile) -> list[Axis]:
    """The axes of grid and zip, whichever of the two the file has first."""
    grid = [_axis(file, key, v, ("grid", key)) for key, v in _mapping(file, "grid").items()]
    zipped = _zip(file)
    order = list(file.data)
    late = "zip" in order and "grid" in order and order.index("grid") < order.index("zip")
    return [*grid, zipped] if late else [zipped, *grid]


def _zip(file: GridFile) -> Axis:
    columns = {key: _axis(file, key, v, ("zip", key)) for key, v in _mapping(file, "zip").items()}
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
    """Whether these are mappings of fields, not values of a field whose name is misspelt."""
    given = values if isinstance(values, list) else ()
    return any(field in FIELDS for value in given if isinstance(value, dict) for field in value)


def _bundle(file: GridFile, key: str, value: object, place: Place) -> Choice:
    """What one value of an axis sets whose name is no field."""
    if isinstance(value, dict):
        return union(file, value, place)
    file.problem(place, f"{key}: expected a mapping of fields, got {show(value)}")
    return {}


def _choices(file: GridFile, key: str) -> dict[Place, Choice]:
    """The mappings of `include` or `exclude` and where each stands."""
    found: dict[Place, Choice] = {}
    for number, given in enumerate(_section(file, key)):
        if isinstance(given, dict) and given:
            faults = file.faults
            choice = union(file, given, (key, number))
            # An exclude that lost a mistaken field would drop more than was meant.
            if key == "include" or file.faults == faults:
                found[key, number] = choice
        else:
            what = f"expected a mapping of fields, got {show(given)}"
            file.problem((key, number), f"{key}: {what}")
    return found


def _check_exclude(file: GridFile, exclude: Mapping[Place, Choice], fields: Iterable[str]) -> None:
    known = {*fields, *_mapping(file, "grid"), *_mapping(file, "zip")}
    for key, (_, place) in (item for choice in exclude.values() for item in choice.items()):
        if key not in known:
            hint = nearest(key, sorted(known)) if known else ""
            file.problem(place, f"{key}: no axis of this grid{hint}")


def _mapping(file: GridFile, key: str) -> Mapping[str, Any]:
    value = file.data.get(key, {})
    if isinstance(value, dict):
        return value
    file.problem((key,), f"{key}: expected a mapping, got {show(value)}")
    return {}


def _section(file: GridFile, key: str) -> list[Any]:
    return _list(file, key, file.data[key], (key,)) if key in file.data else []


def _list(file: GridFile, key: str, value: object, place: Place) -> list[Any]:
    """`value` where it is a list with something in it, else [] and a problem."""
    if isinstance(value, list) and value:
        return value
    what = "the list is empty" if value == [] else f"expected a list, got {show(value)}"
    file.problem(place, f"{key}: {what}")
    return []

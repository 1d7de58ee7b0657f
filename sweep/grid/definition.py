"""From a grid file to its runs: a pure function of the file's text.

    grids/x.yaml --load--> Grid: the runs, in the file's order --plan.make--> Plan

The grammar, all of it (a field is a dotted RunConfig field such as `optim.lr`):

    name     the sweep's name and folder: lower-case letters, digits, '_' and '-'
    about    free: question, runs, gpu_hours, hardware, expect
    base     fields that hold for every run, dotted or nested
    grid     field -> list of values; all combinations, the last field varies fastest. Any other
             name -> list of mappings: an axis whose values each set several fields at once
    zip      field -> list of values, all of one length; they advance together, as one axis that
             comes before or after those of grid, as in the file
    seeds    list of seeds; the very last axis
    exclude  list of mappings; a combination of grid, zip and seeds is dropped if it matches every
             field of one
    include  list of mappings; each is one more combination, laid over base and run with every
             seed; without grid and zip these are the only runs
    evals    list of evaluations, each done on every run; by default robust accuracy by APGD-10
    tables   the tables this grid feeds, see sweep.grid.keys.TABLES
    tune     a search for hyper-parameters that comes before the runs, see sweep.grid.tune_block

A schedule is one value: a preset or a mapping, whose `name` labels it in tables. A user's own
objective is one value, too: `{kind: my_pkg.mod:Loss, gamma: 2}`.
"""

from __future__ import annotations

import difflib
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import (
    ConfigError,
    RunConfig,
    Schedule,
    nearest,
    own_code,
)
from core.config.document import read_text
from core.config.values import digest
from core.store.folders import Store
from sweep.grid import keys, reach, tune_block
from sweep.grid.expansion import Found, Run, judge, product, report, with_parent
from sweep.grid.fields import Axis, Choice, join, set_field, union
from sweep.grid.file import GridFile, Place
from sweep.grid.filters import select_runs
from sweep.grid.search import Search
from sweep.grid.tune_block import Tune

__all__ = ["Grid", "Run", "load_grid", "parse_grid", "select_runs", "shipped_grids"]

KEYS = (
    *("name", "about", "base", "grid", "zip", "include", "exclude", "seeds", "evals", "tables"),
    "tune",
)
MOST_COMBINATIONS = 1_000_000


@dataclass(frozen=True)
class Grid:
    """A grid file, expanded. shared: how many combinations are the same run as an earlier one."""

    name: str
    about: Mapping[str, Any]
    runs: tuple[Run, ...]
    shared: int
    tables: tuple[str, ...]
    text: str
    path: Path
    tune: Tune | None = None
    warnings: tuple[str, ...] = ()
    """Likely typos in strengths, and what its tables will lack even when every run is done."""
    searches: tuple[Search, ...] = ()
    """The searches of `tune`, filled in by `sweep.tune.winners.apply` from a store; once all have a
    winner, the runs use it."""

    @property
    def argument(self) -> str:
        """How the command line names it: a shipped grid by its name, any other by its file."""
        return self.name if shipped_grids().get(self.name) == self.path else str(self.path)

    def command(self, verb: str, store: Store, *options: str) -> str:
        """`sweep VERB` on this grid and store, quoted to be pasted into this shell."""
        root = [] if store == Store.at() else ["--root", str(store.root)]
        return shlex.join(["sweep", verb, self.argument, *root, *options])


def shipped_grids() -> dict[str, Path]:
    """Name -> path of the grids that come with the package."""
    here = Path(__file__).parents[1]
    # A wheel holds them inside this package, a checkout beside it.
    folder = here / "grids" if (here / "grids").is_dir() else here.parent / "grids"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_grid(path: str | Path) -> Grid:
    """The grid at `path`, or the shipped grid of that name. Raises ConfigError."""
    if not os.path.isfile(path):
        known = shipped_grids()
        if str(path) not in known:
            what = "a folder, not a grid file" if os.path.isdir(path) else "no such grid file"
            raise ConfigError(f"{path}: {what}{_nearest_grid(Path(path), known)}")
        path = known[str(path)]
    return parse_grid(read_text(Path(path), str(path)), Path(path))


def _nearest_grid(path: Path, known: Mapping[str, Path]) -> str:
    """The end of a message, like `nearest`: grid files beside `path` are proposed first."""
    for file in difflib.get_close_matches(path.stem, [f.stem for f in path.parent.glob("*.yaml")]):
        return f", did you mean '{path.with_name(file)}.yaml'?"
    return nearest(path.stem, known)


def parse_grid(text: str, path: Path) -> Grid:
    """The grid that `text` describes; `path` only names it.

    Raises ConfigError with every problem, one line each: `path:LINE: key: what is wrong`.
    """
    file = GridFile(text, str(path))
    for key in file.data:
        if key not in KEYS:
            file.problem((key,), f"{key}: unknown key{nearest(key, KEYS, shown=len(KEYS))}")
    name, about = keys.read_name(file), keys.mapping(file, "about")
    evals, tables = keys.read_evals(file), keys.read_tables(file)
    runs, shared = _distinct(
        file,
        (
            (Run(found.config, found.setting, evals, id=found.id), found.added)
            for found in _expand(file)
        ),
    )
    _check_labels(file, runs)
    tune = tune_block.read(file)
    if tune:
        tune_block.check(file, tune, (run.config for run in runs))
    if not runs and not file.faults:
        file.problem(("exclude",), "exclude: drops every combination, no run is left")
    file.check()
    warnings = (*reach.typos(file), *reach.gaps(file, evals, (run.config for run in runs)))
    return Grid(name, about, runs, shared, tables, text, path, tune, warnings)


def _expand(file: GridFile) -> Iterator[Found]:
    """Every combination the file asks for, in order; the same run may come more than once."""
    base = union(file, keys.mapping(file, "base"), ("base",))
    seeds = [
        set_field(file, "seed", s, ("seeds", i)) for i, s in enumerate(keys.section(file, "seeds"))
    ]
    crossed = [axis for axis in keys.read_axes(file) if axis]
    axes = [*crossed, seeds] if seeds else crossed
    given = dict(base)
    for axis in axes:
        join(file, given, {key: item for choice in reversed(axis) for key, item in choice.items()})
    include, exclude = keys.read_choices(file, "include"), keys.read_choices(file, "exclude")
    keys.check_exclude(file, exclude, given.keys() - base.keys())
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
            yield from with_parent(file, verdict.whole(), verdict.setting, choice | seed)


def _distinct(file: GridFile, runs: Iterable[tuple[Run, bool]]) -> tuple[tuple[Run, ...], int]:
    """The runs without repetitions, and the number of repetitions. The bool of a run says that it
    was added as another's parent: the file does not ask for it."""
    found: dict[str, Run] = {}
    shared, asked = 0, set[str]()
    for run, added in runs:
        shared += run.id in asked and not added
        asked |= set() if added else {run.id}
        other = found.setdefault(run.id, run)
        if other is run:
            continue
        if other.config != run.config:
            both = f"{other.config.delta} and {run.config.delta}"
            file.problem((), f"{run.id}: two different runs have this id: {both}")
        elif other.setting != run.setting:
            both = f"'{other.setting}' and '{run.setting}'"
            file.problem(("grid",), f"schedule: {both} name the same run, {run.id}")
    return tuple(found.values()), shared


def _check_labels(file: GridFile, runs: Iterable[Run]) -> None:
    """Note two schedules under one label in one cell of a table: tables would average them like
    seeds."""
    # First by (label, epochs): of 100,000 runs only those with an ambiguous label are compared.
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

"""Gives the runs of a grid the winners of its searches, once every search has one.

    grid as in its file --apply--> the same grid, with every run's hyper-parameters from its search

A pure function of the file's text and the winners on disk, which are written once, so everybody
sees the same runs. While a search is unfinished, the grid keeps the runs of its file, and `launch`
refuses it.
"""

from __future__ import annotations

import math
import random
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rich.text import Text

from core.config import ConfigError, RunConfig, Schedule
from core.config.seeds import derive
from core.errors import counted
from core.store.folders import Store
from sweep.grid import Grid, Run
from sweep.grid.search import Search, look, rounded, with_params
from sweep.grid.tune_block import Range, Tune

FIX = Schedule()
NAMED = 3
"""Number of searches named in one line before 'and k more'."""


def apply(grid: Grid, store: Store) -> Grid:
    """The grid with its searches and, if all of them are finished, their winners in its runs."""
    if grid.tune is None:
        return grid
    if not grid.tune.trials:
        seed = min(run.config.seed for run in grid.runs)
        return replace(grid, runs=tuple(_drawn(run, grid.tune, seed) for run in grid.runs))
    found = by_run(grid, store)
    searches = tuple({search.id: search for search in found.values()}.values())
    winners = {search.id: search.winner() for search in searches}
    runs = grid.runs
    if all(winner and winner.get("params") for winner in winners.values()):
        runs = tuple(_tuned(run, winners[found[run.id].id], grid.tune) for run in runs)
    return replace(grid, searches=searches, runs=runs)


def _tuned(run: Run, winner: Mapping[str, Any] | None, tune: Tune) -> Run:
    assert winner
    config = with_params(run.config, winner["params"])
    return Run(config, run.setting, run.evals, {**winner, "least": tune.least})


def _drawn(run: Run, tune: Tune, seed: int) -> Run:
    """A run with one random draw of hyper-parameters, the same for all runs that would share a
    search."""
    alike = _searched(run.config, tune, seed)
    name = run.id if alike is run.config else alike.id
    chance = random.Random(derive(seed, "draw", name))
    params = {
        field: _draw(ends, chance) for field, ends in tune.ranges_of(run.config.protocol).items()
    }
    values = {field.removeprefix("optim."): value for field, value in params.items()}
    config = run.config.with_optim(run.config.optim.model_copy(update=values))
    told = {"search": name, "params": params, "trials": 0, "least": tune.least}
    return Run(config, run.setting, run.evals, told)


def _draw(ends: Range, chance: random.Random) -> float | str:
    """One of the values, or a log-uniform number between the ends."""
    if isinstance(ends[0], str):
        return chance.choice(ends)
    low, high = map(float, ends)
    return rounded(math.exp(chance.uniform(math.log(low), math.log(high))), low, high)


def by_run(grid: Grid, store: Store) -> dict[str, Search]:
    """Run id as in the file -> the search whose winner the run uses."""
    assert grid.tune
    searched = {run.id: _searched(run.config, grid.tune) for run in grid.runs}
    seeds: dict[RunConfig, int] = {}
    for run in grid.runs:
        alike, seed = searched[run.id], run.config.seed
        seeds[alike] = min(seed, seeds.get(alike, seed))
    searches = {alike: _search(alike, seed, grid.tune, store) for alike, seed in seeds.items()}
    return {run_id: searches[alike] for run_id, alike in searched.items()}


def _searched(config: RunConfig, tune: Tune, seed: int = 0) -> RunConfig:
    """The run that stands for all runs that share a search: with one seed, default
    hyper-parameters, and (unless tune.schedule is 'each') `fix` for every schedule that attacks."""
    changes: dict[str, Any] = {"seed": seed} if config.seed != seed else {}
    if tried := {k: v for k, v in tune.defaults.items() if getattr(config.optim, k) != v}:
        changes["optim"] = config.optim.model_copy(update=tried)
    if tune.shares_winner and config.schedule.attacks and config.schedule != FIX:
        changes["schedule"] = FIX
    if tune.epochs:
        changes["epochs"] = tune.epochs
    return config.model_copy(update=changes) if changes else config


def _search(alike: RunConfig, seed: int, tune: Tune, store: Store) -> Search:
    return Search(
        alike.model_copy(update={"seed": seed}),
        tune.ranges_of(alike.protocol),
        tune.objective,
        tune.grace,
        tune.reduction,
        tune.trials,
        tune.minutes,
        store.root / "tuned",
    )


def are_in(grid: Grid) -> bool:
    """Whether the runs have their final hyper-parameters; always true for a grid without tuning."""
    return grid.tune is None or bool(grid.runs[0].tuned)


def require(grid: Grid) -> None:
    """Raise ConfigError if a grid asks for tuned hyper-parameters and some are not found yet."""
    if not are_in(grid):
        raise ConfigError(f"{grid.name}: {_lacking(grid)}")


def _lacking(grid: Grid) -> str:
    open_ones = [search for search in grid.searches if search.winner() is None]
    # The command comes first, before the long list: wrapped, it could not be pasted.
    how = shlex.join(["sweep", "tune", grid.argument])
    if not grid.searches:
        return f"its searches were not read from a store; run: {how}"
    if not open_ones:
        barren = [s.name for s in grid.searches if not (s.winner() or {}).get("params")]
        return f"no trial was completed in the search for {named(barren)}; widen tune.space"
    each = [
        f"{one.name}: {look(one).real} of {counted(one.trials, 'trial')}"
        for one in open_ones[:NAMED]
    ]
    more = f", and {len(open_ones) - NAMED} more" if len(open_ones) > NAMED else ""
    count = f"{len(open_ones)} of {counted(len(grid.searches), 'search')} unfinished"
    waits = "; no run begins before all have ended" if len(grid.searches) > 1 else ""
    return f"{count}; run: {how}{waits} ({', '.join(each)}{more})"


def named(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def lines(grid: Grid) -> list[Text]:
    """Lines about the tuning of a grid, shown wherever its runs are; [] without tuning."""
    if grid.tune is None:
        return []
    if not are_in(grid):
        return [Text(f"not tuned yet: {_lacking(grid)}", style="yellow")]
    if not grid.tune.trials:
        text = "not searched: every run has the first draw from its ranges (tune.trials: 0)"
        return [Text(text, style="yellow")]
    winners = [search.winner() or {} for search in grid.searches]
    trials = sum(winner["trials"] for winner in winners)
    of = counted(len(winners), "search")
    found = [Text(f"tuned: winners of {of} with {counted(trials, 'trial')} in all")]
    few = [f"{s.name} ({w['trials']})" for s, w in weak(grid)]
    if few:
        text = f"searched with fewer than {counted(grid.tune.least, 'trial')}: {named(few)}"
        found.append(Text(text, style="yellow"))
    return found


def weak(grid: Grid) -> list[tuple[Search, Mapping[str, Any]]]:
    """Searches, with their winners, that had fewer trials than tune.least."""
    assert grid.tune
    pairs = ((search, search.winner()) for search in grid.searches)
    return [(one, winner) for one, winner in pairs if winner and winner["trials"] < grid.tune.least]


def as_dict(grid: Grid) -> dict[str, Any]:
    """For `--json`: every search with its winner, None if it is unfinished."""
    if grid.tune is None:
        return {}
    few = {search.id for search, _ in weak(grid)}
    return {
        "tuning": [
            {"search": search.id, "winner": search.winner(), "few_trials": search.id in few}
            for search in grid.searches
        ]
    }

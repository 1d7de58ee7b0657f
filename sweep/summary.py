"""A plan in a few lines: counts, runs by backbone and dataset, hours spent and left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import mean
from types import MappingProxyType
from typing import NamedTuple

from rich.console import Group
from rich.text import Text

from core.errors import counted
from core.sheet import Sheet
from core.store.folders import Store
from sweep import budget
from sweep.budget import Hours, lasting, rest, scaled, short, spelled, works_of
from sweep.estimate.cost import Cost, Sum, Work, by_phase
from sweep.grid import Grid
from sweep.state import display
from sweep.state.plan import Plan, State
from sweep.tune import winners


class Published(NamedTuple):
    """Published values for the runs of a plan."""

    metric: str
    """The metric to show."""
    values: Mapping[str, Mapping[str, float]]
    """Run id -> metric -> percent."""

    @property
    def shown(self) -> dict[str, float]:
        """Run id -> percent in the metric to show, for the runs that have it."""
        every = self.values.items()
        return {run: found[self.metric] for run, found in every if self.metric in found}


NOTHING: Mapping[str, float] = MappingProxyType({})
MARKED = (State.RUNNING, State.PENDING, State.FAILED, State.DAMAGED, State.STALE)
"""States whose counts a cell shows besides done."""


def of(grid: Grid, seen: Plan, cost: Cost, published: Published | None = None) -> Group:
    """The grid's question, the store, counts, hours, and runs by cell, for a terminal; with
    published values if they are given."""
    question = str(grid.about.get("question", ""))
    name = Text.assemble((grid.name, "bold"), f"  {question}" if question else "")
    lines = [name, place(cost.store, grid)]
    told = grid.shared and len(seen.statuses) == len(grid.runs)  # only counted for the whole grid
    shared = f" for {len(grid.runs) + grid.shared} combinations" if told else ""
    runs = counted(len(seen.statuses), "run")
    lines.append(Text.assemble(f"{runs}{shared}: ", display.counts_line(seen)))
    works = works_of(seen, cost)
    told_hours = budget.hours(seen, cost, works)
    lines += [Text(line) for line in told_hours.lines]
    known = [one for each in works if (one := each.hours)]
    if known:
        factor, unit = scaled(max(known), cost.unit)
        span = f"{short(min(known) * factor)} to {short(max(known) * factor)} {unit}"
        lines.append(Text(f"a run takes {span}{_at_once(told_hours, max(known), cost)}"))
    before = cost.searching(grid.searches)
    left = [rest(status, work) for status, work in zip(seen.statuses, works, strict=True)]
    if phases := _phases(by_phase(left, before), cost.unit):
        lines.append(phases)
    lines += winners.lines(grid) + searches(grid, before, cost.unit)
    printed = published.shown if published else {}
    if published:
        some = sum(status.run.id in printed for status in seen.statuses)
        what = f"{published.metric} as published, in %"
        runs = counted(some, "run")
        lines.append(Text(f"{what}, for {runs}; a cell shows the mean over its runs"))
    return Group(*lines, cells(seen, left, cost.unit, printed))


def place(store: Store, *grids: Grid) -> Text:
    """Where the results are, and whether there are any: in a wrong folder every run is new."""
    if not store.root.is_dir():
        state = " (no such folder yet)"
    elif not any(store.sweep(grid.name).path.is_dir() for grid in grids):
        state = " (no grid of this name was launched there)"
    else:
        state = ""
    return Text(f"in {store.root}{state}", style="dim", overflow="fold")


def _at_once(told: Hours, longest: float, cost: Cost) -> str:
    """How long the rest takes on the available devices; '' if their number is unknown."""
    if not (told.known and cost.at_once):
        return ""
    wall = max(told.known / cost.at_once, longest if cost.device != "CPU" else 0)
    devices = "core" if cost.device == "CPU" else "GPU"
    plural = "s" if cost.at_once > 1 else ""
    return f"; what is left takes {spelled(wall, 'hours')} on {cost.at_once} {devices}{plural}"


def _phases(phases: Mapping[str, Sum], unit: str) -> Text | None:
    """'left by phase: training 766, autoattack 2,019 GPU-hours', without phases whose hours are 0
    or unknown; None if that leaves none."""
    factor, unit = scaled(max(total.known for total in phases.values()), unit)
    told = [f"{name} {short(each.known * factor)}" for name, each in phases.items() if each.known]
    return Text(f"left by phase: {', '.join(told)} {unit}") if told else None


def searches(grid: Grid, hours: Sum, unit: str) -> list[Text]:
    """A line with the searches that must finish before the grid's runs, and their hours; [] if the
    grid is tuned or needs no search."""
    left = sum(one.winner() is None for one in grid.searches)
    about = f" of {lasting(hours, unit)}" if hours.known else ""
    text = f"{grid.name}: first {counted(left, 'search')}{about}, then runs with the rates found"
    return [Text(text, style="yellow")] if left else []


def cells(
    seen: Plan, works: Sequence[Work], unit: str, published: Mapping[str, float] = NOTHING
) -> Sheet:
    """Done/all runs by backbone and dataset, how many others are under way or failed, published
    values (percent, by run id), and for each backbone the estimate of what is left, by `works`.
    unit: 'GPU-hours' or 'core-hours'."""
    datasets: dict[str, None] = {}
    counts: dict[str, dict[str, Counter[State]]] = defaultdict(lambda: defaultdict(Counter))
    printed: dict[tuple[str, str], list[float]] = defaultdict(list)
    hours: dict[str, list[float | None]] = defaultdict(list)
    for status, work in zip(seen.statuses, works, strict=True):
        backbone, dataset = status.run.config.backbone, _name(status.run.config.dataset)
        datasets[dataset] = None
        counts[backbone][dataset][status.state] += 1
        hours[backbone].append(work.hours)
        if status.run.id in published:
            printed[backbone, dataset].append(published[status.run.id])
    totals = {name: Sum.of(each) for name, each in hours.items()}
    table = Sheet("done/runs", *(f">{name}" for name in datasets))
    largest = max((total.known for total in totals.values()), default=0.0)
    factor, unit = scaled(largest, unit)
    if largest:
        table.add_column(f"{unit} left", justify="right", style="dim")
    for backbone, row in counts.items():
        shown = [
            _cell(row[name], printed[backbone, name]) if name in row else "" for name in datasets
        ]
        total = totals[backbone]
        if largest:
            known = f"about {short(total.known * factor)}" if total.known else ""
            unknown = f"{total.unknown} unknown" if total.unknown else ""
            shown.append(", ".join(filter(None, (known, unknown))))
        table.add_row(backbone, *shown)
    return table


def _cell(states: Counter[State], published: Sequence[float]) -> Text:
    done = states[State.DONE]
    text = Text(f"{done}/{states.total()}", style="green" if done else "")
    for state in MARKED:
        if states[state]:
            text.append(f" {states[state]} {state}", style=display.COLOURS[state])
    if published:
        text.append(f"{mean(published):6.1f}", style="dim")
    return text


@cache
def _name(dataset: str) -> str:
    return dataset.rstrip("/").rpartition("/")[2]

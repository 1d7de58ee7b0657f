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
from sweep.estimate.cost import Cost, Sum, Work, by_phase
from sweep.grid import Grid
from sweep.state.plan import Plan, State, Status
from sweep.submit import watcher
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
    lines.append(Text.assemble(f"{runs}{shared}: ", watcher.counts_line(seen)))
    works = works_of(seen, cost)
    told_hours = _hours(seen, works, cost)
    lines += [Text(line) for line in told_hours.lines]
    known = [one for each in works if (one := each.hours)]
    if known:
        factor, unit = scaled(max(known), cost.unit)
        span = f"{short(min(known) * factor)} to {short(max(known) * factor)} {unit}"
        lines.append(Text(f"a run takes {span}{_at_once(told_hours, max(known), cost)}"))
    before = cost.searching(grid.searches)
    if phases := _phases(by_phase(works, before), cost.unit):
        lines.append(phases)
    lines += winners.lines(grid) + searches(grid, before, cost.unit)
    printed = published.shown if published else {}
    if published:
        some = sum(status.run.id in printed for status in seen.statuses)
        what = f"{published.metric} as published, in %"
        runs = counted(some, "run")
        lines.append(Text(f"{what}, of {runs}: the mean over those of a cell"))
    return Group(*lines, cells(seen, works, cost.unit, printed))


def works_of(seen: Plan, cost: Cost) -> list[Work]:
    """The work of every run of a plan, in its order."""
    return [cost.work(status.run.config, status.run.evals) for status in seen.statuses]


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
    """'by phase: training 766, autoattack 2,019 GPU-hours', without phases whose hours are 0 or
    unknown; None if that leaves none."""
    factor, unit = scaled(max(total.known for total in phases.values()), unit)
    told = [f"{name} {short(each.known * factor)}" for name, each in phases.items() if each.known]
    return Text(f"by phase: {', '.join(told)} {unit}") if told else None


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
    values (percent, by run id), and the estimate for each backbone. unit: 'GPU-hours' or
    'core-hours'."""
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
        table.add_column(unit, justify="right", style="dim")
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
            text.append(f" {states[state]} {state}", style=watcher.COLOURS[state])
    if published:
        text.append(f"{mean(published):6.1f}", style="dim")
    return text


@cache
def _name(dataset: str) -> str:
    return dataset.rstrip("/").rpartition("/")[2]


class Hours(NamedTuple):
    """What a sweep costs, in hours of `unit`."""

    spent: float
    left: float | None
    """None if a run that is left has no estimate."""
    unit: str
    basis: str
    """Where the estimate of `left` comes from."""
    finished: int
    """Runs that are done and had an estimate before anything ran."""
    planned: float
    """The estimate for the `finished` runs."""
    actual: float
    """What the `finished` runs took."""
    known: float = 0.0
    """Hours left for the runs that have an estimate."""
    unknown: int = 0
    """How many of the runs that are left have no estimate."""
    at_work: float = 0.0
    """GPUs in use by its runs now (processes, if no run has used a GPU)."""

    @property
    def lines(self) -> list[str]:
        """Hours spent, hours left and the error of the estimate, as far as they are known."""
        parts = [f"{spelled(self.spent, self.unit)} spent"] if self.spent else []
        if self.known:
            rest = lasting(Sum(self.known, self.unknown), self.unit, " runs")
            parts.append(f"{rest} left, {self.basis}")
        elif self.unknown:
            parts.append("no estimate until one such run has finished here")
        said = [", ".join(parts)] if parts else []
        if self.known and self.at_work and not self.unknown:
            what = "GPU" if self.unit == "GPU-hours" else "process"
            now = counted(max(1, round(self.at_work)), what)
            said.append(f"{spelled(self.known / self.at_work, 'hours')} to go, with {now} as now")
        if self.planned and self.actual:
            off = f"{self.actual / self.planned - 1:+.0%}"
            planned, actual = (spelled(n, self.unit) for n in (self.planned, self.actual))
            numbers = f"{planned} planned, {actual} spent"
            said.append(f"{counted(self.finished, 'finished run')}: {numbers} ({off})")
        return said


def short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def scaled(hours: float, unit: str) -> tuple[float, str]:
    """(factor, unit): hours, minutes or seconds, whichever is the largest in which `hours` is at
    least 1, in place of the hours in `unit`."""
    for factor, name in ((1, "hours"), (60, "minutes")):
        if hours * factor >= 1:
            return factor, unit.replace("hours", name)
    return 3600, unit.replace("hours", "seconds")


def spelled(hours: float, unit: str) -> str:
    """'2.5 GPU-hours', '6.5 core-seconds'."""
    factor, name = scaled(hours, unit)
    return f"{short(hours * factor)} {name}"


def lasting(total: Sum, unit: str, what: str = "") -> str:
    """'about 2.5 GPU-hours and 3 of unknown length'. what: follows that count, such as ' runs'."""
    rest = f" and {total.unknown}{what} of unknown length" if total.unknown else ""
    return f"about {spelled(total.known, unit)}{rest}"


def hours(seen: Plan, cost: Cost) -> Hours:
    """GPU-hours spent so far (hours of runs if no run has used a GPU) and left. What is left
    follows from the speed of this plan's runs, of the same backbone if possible, else from the
    estimate."""
    return _hours(seen, works_of(seen, cost), cost)


def _hours(seen: Plan, works: Sequence[Work], cost: Cost) -> Hours:
    used: dict[str, float] = defaultdict(float)
    made: dict[str, float] = defaultdict(float)
    on_gpus = any(status.gpu_seconds for status in seen.statuses)
    seconds = {s.run.id: s.gpu_seconds if on_gpus else s.seconds for s in seen.statuses}
    for status, work in zip(seen.statuses, works, strict=True):
        if work.petaflops:
            used[status.run.config.backbone] += seconds[status.run.id]
            made[status.run.config.backbone] += work.petaflops * _share(status, work)
    spent = sum(seconds.values()) / 3600
    shipped = cost.shipped
    planned = {
        run.id: shipped.hours(run.config, run.evals) or 0
        for run in seen.of({State.DONE})
        if on_gpus
    }
    finished = [name for name, about in planned.items() if about]
    observed = "by the speed of its runs so far" if sum(made.values()) else cost.basis
    unit = "hours" if spent and not on_gpus else "GPU-hours" if spent else cost.unit
    known, unknown = _left(seen, works, used, made)
    return Hours(
        spent,
        None if unknown else known,
        unit,
        observed,
        len(finished),
        sum(planned.values()),
        sum(seconds[name] for name in finished) / 3600,
        known,
        unknown,
        sum(_devices(status, on_gpus) for status in seen.statuses),
    )


def _devices(status: Status, on_gpus: bool) -> float:
    """GPUs (processes, if not on_gpus) a run is using now: a fraction if runs share one."""
    if status.state is not State.RUNNING:
        return 0.0
    return status.gpu_seconds / status.seconds if on_gpus and status.seconds else 1.0


def _left(
    seen: Plan, works: Sequence[Work], used: Mapping[str, float], made: Mapping[str, float]
) -> tuple[float, int]:
    """(hours left for the runs with an estimate, number of runs without one). used, made: seconds
    and PFLOP so far, by backbone."""
    total, unknown, every = 0.0, 0, sum(made.values())
    for status, work in zip(seen.statuses, works, strict=True):
        if status.state is State.DONE:
            continue
        name, hours = status.run.config.backbone, work.hours
        if work.petaflops and every:
            pace = used[name] / made[name] if made[name] else sum(used.values()) / every
            hours = work.petaflops * pace / 3600
        if hours is None:
            unknown += 1
        else:
            total += hours * (1 - _share(status, work))
    return total, unknown


def _share(status: Status, work: Work) -> float:
    """Share of a run's operations that is done, in [0, 1]. Not the share of its epochs: AutoAttack
    takes several times as long as the training."""
    if status.state is State.DONE or not work.petaflops or work.training is None:
        return watcher.done_share(status)
    trained = work.training / work.petaflops
    if status.phase == "evaluate":
        return trained + (1 - trained) * status.share
    return trained * status.share

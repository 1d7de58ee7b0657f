"""A plan at a glance: counts, runs by backbone and dataset, hours spent and left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from core import schedules
from core.config import RunConfig, Schedule
from sweep import watch, winners
from sweep.grid import Grid, Run
from sweep.plan import Plan, State, Status

MARKS = {State.RUNNING: "running", State.PENDING: "pending", State.FAILED: "failed"}


def of(grid: Grid, seen: Plan) -> Group:
    """The question, the counts, the hours, and runs by cell."""
    about = grid.about
    lines = [Text.assemble((grid.name, "bold"), "  ", str(about.get("question", "")))]
    shared = f" ({grid.shared} combinations share another's run)" if grid.shared else ""
    lines.append(Text.assemble(f"{len(seen.statuses)} runs{shared}: ", watch.counts_line(seen)))
    cost = hours(grid, seen)
    if str(cost):
        hardware = f" on {about['hardware']}" if about.get("hardware") else ""
        lines.append(Text(f"{cost}{hardware}"))
    lines += winners.lines(grid)
    return Group(*lines, cells(seen))


def cells(seen: Plan) -> Table:
    """Done/all runs by backbone and dataset, and how many of the others are under way or failed."""
    datasets = list(dict.fromkeys(_dataset(status.run) for status in seen.statuses))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("done/runs")
    for name in datasets:
        table.add_column(name, justify="right")
    counts: dict[str, dict[str, Counter[State]]] = defaultdict(lambda: defaultdict(Counter))
    for status in seen.statuses:
        counts[status.run.config.backbone][_dataset(status.run)][status.state] += 1
    for backbone, row in counts.items():
        table.add_row(backbone, *(_cell(row[name]) if name in row else "" for name in datasets))
    return table


def _cell(states: Counter[State]) -> Text:
    done = states[State.DONE]
    text = Text(f"{done}/{states.total()}", style="green" if done else "")
    for state, name in MARKS.items():
        if states[state]:
            text.append(f" {states[state]} {name}", style=watch.COLOURS[state])
    return text


def _dataset(run: Run) -> str:
    return run.config.dataset.rstrip("/").rpartition("/")[2]


class Hours(NamedTuple):
    """What a sweep costs, in `unit`s; None where nothing tells."""

    spent: float
    left: float | None
    unit: str

    def __str__(self) -> str:
        parts = [f"{_short(self.spent)} {self.unit} spent"] if self.spent else []
        if self.left:
            parts.append(f"about {_short(self.left)} {'' if parts else f'{self.unit} '}left")
        return ", ".join(parts)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def hours(grid: Grid, seen: Plan) -> Hours:
    """GPU-hours (hours of runs where no run had a GPU) so far, and what is left: by the speed of
    the runs under way, of the same backbone where there are some, else by the grid's estimate."""
    used: dict[str, float] = defaultdict(float)
    units: dict[str, float] = defaultdict(float)
    on_gpus = any(status.gpu_seconds for status in seen.statuses)
    for status in seen.statuses:
        used[status.run.config.backbone] += status.gpu_seconds if on_gpus else status.seconds
        units[status.run.config.backbone] += work(status.run.config) * watch.done_share(status)
    spent = sum(used.values()) / 3600
    return Hours(spent, _left(grid, seen, used, units), "GPU-hours" if on_gpus else "hours")


def _left(
    grid: Grid, seen: Plan, used: Mapping[str, float], units: Mapping[str, float]
) -> float | None:
    open_runs = [s for s in seen.statuses if s.state is not State.DONE]
    estimate = grid.about.get("gpu_hours")
    if sum(units.values()) and open_runs:
        mean = sum(used.values()) / sum(units.values())
        speed = {b: used[b] / units[b] if units[b] else mean for b in used}
    elif isinstance(estimate, int | float):
        flat = 3600 * estimate / sum(work(run.config) for run in grid.runs)
        speed = dict.fromkeys(used, flat)
    else:
        return None
    return sum(_open_work(s) * speed[s.run.config.backbone] for s in open_runs) / 3600


def _open_work(status: Status) -> float:
    return work(status.run.config) * (1 - watch.done_share(status))


def work(config: RunConfig) -> float:
    """Cost of a run in epochs of standard training: an attacked one of n steps costs 1 + 0.6 n
    (measured on 224-pixel backbones: 5.2 for n = 7)."""
    key = (config.schedule, config.epochs)
    if key not in _attacked:
        _attacked[key] = _attacked_epochs(config)
    return config.epochs + _attacked[key] * 0.6 * config.attack.steps


_attacked: dict[tuple[Schedule, int], int] = {}
"""Runs by the thousand share a few schedules."""


def _attacked_epochs(config: RunConfig) -> int:
    if config.schedule.kind == "auto":  # known only afterwards: take all but the waiting time
        return max(0, config.epochs - config.schedule.patience)
    schedule = schedules.make(config)
    return sum(schedule.alpha(epoch) > 0 for epoch in range(config.epochs))

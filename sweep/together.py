"""Several grids at once: their distinct runs, and what is saved where grids share runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from core.rundir import Store
from sweep import launch, summary, watch
from sweep.grid import Grid
from sweep.plan import Plan, State, Status


@dataclass(frozen=True)
class Share:
    """One grid among several."""

    grid: Grid
    plan: Plan
    shared: int
    """Runs that an earlier grid has too."""
    hours: float | None
    """Estimated hours of the runs that no earlier grid has; None where the grid has no estimate."""


def look(grids: Sequence[Grid], store: Store, only: Sequence[str] = ()) -> list[Share]:
    """Every grid's plan, in order. Raises ConfigError for a filter that fits none of its runs."""
    seen: set[str] = set()
    shares = []
    for grid in grids:
        plan = launch.look(grid, store, only)
        own = [status.run for status in plan.statuses if status.run.id not in seen]
        hours, total = (
            grid.about.get("gpu_hours"),
            sum(summary.work(run.config) for run in grid.runs),
        )
        estimate = (
            float(hours) * sum(summary.work(run.config) for run in own) / total if hours else None
        )
        shares.append(Share(grid, plan, len(plan.statuses) - len(own), estimate))
        seen.update(run.id for run in own)
    return shares


def union(shares: Sequence[Share]) -> Plan:
    """The distinct runs; one that two grids share is done once it has the evaluations of both."""
    merged: dict[str, Status] = {}
    for status in (status for share in shares for status in share.plan.statuses):
        known = merged.get(status.run.id)
        if known is None or known.state is State.DONE:
            merged[status.run.id] = status
    return Plan(list(merged.values()))


def table(shares: Sequence[Share]) -> Group:
    """Runs of each grid, how many of them an earlier one has, and the sum."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("grid")
    for column in ("runs", "shared", "done", "GPU-hours"):
        shown.add_column(column, justify="right")
    for share in shares:
        hours = "" if share.hours is None else f"{share.hours:,.0f}"
        done = str(share.plan.counts[State.DONE])
        runs = str(len(share.plan.statuses))
        shown.add_row(share.grid.name, runs, str(share.shared or ""), done, hours)
    every = union(shares)
    known = [share.hours for share in shares if share.hours is not None]
    done, count = str(every.counts[State.DONE]), str(len(every.statuses))
    shown.add_row("together", count, "", done, f"{sum(known):,.0f}" if known else "", style="bold")
    asked = sum(len(share.plan.statuses) for share in shares)
    saved = f"{asked - len(every.statuses)} of {asked} are shared and run once"
    return Group(shown, Text.assemble(f"{saved}: ", watch.counts_line(every)))


def as_json(shares: Sequence[Share]) -> str:
    """The shape of `plan --json` for the union, and counts per grid."""
    grids: dict[str, Any] = {
        share.grid.name: {
            "counts": share.plan.to_dict()["counts"],
            "shared": share.shared,
            "gpu_hours": share.hours,
        }
        for share in shares
    }
    return json.dumps({"grids": grids, **union(shares).to_dict()}, indent=1)

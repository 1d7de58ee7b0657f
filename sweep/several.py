"""Several grids at once: their distinct runs, and what sharing runs saves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.text import Text

from core.config import EvalConfig
from core.sheet import Sheet
from core.store.folders import Store
from slurm.profile import Profile, read_profile
from sweep import launcher
from sweep.budget import spelled
from sweep.estimate import cost
from sweep.estimate.cost import Cost, Sum
from sweep.grid import Grid, Run
from sweep.state import display
from sweep.state.plan import Plan, State, Status
from sweep.summary import place, searches
from sweep.tune import winners


@dataclass(frozen=True)
class Share:
    """One grid among several, in their order."""

    grid: Grid
    plan: Plan
    shared: int
    """How many of its runs an earlier grid has, too."""
    estimate: Sum
    """Hours of its searches, and of its runs and evaluations that no earlier grid has."""
    cost: Cost


def look(
    grids: Sequence[Grid], store: Store, only: Sequence[str] = (), profile: Profile | None = None
) -> list[Share]:
    """Every grid's plan, in order, and its cost on a profile (default: this machine). Raises
    ConfigError for a filter that matches no run of some grid."""
    seen: dict[str, set[EvalConfig]] = {}
    costs: dict[str, Cost] = {}
    shares = []
    for grid in grids:
        plan = launcher.look(grid, store, only)
        named = str(grid.about.get("hardware"))
        rate = costs.get(named) or cost.of(profile or read_profile("local"), store, named)
        costs[named] = rate
        # Runs that are not tuned yet count as not shared: their learning rates will change.
        known = seen if winners.are_in(grid) else {}
        shared = sum(status.run.id in known for status in plan.statuses)
        hours = _hours(plan.runs, rate, known)
        shares.append(Share(grid, plan, shared, hours + rate.searching(grid.searches), rate))
        for status in plan.statuses if winners.are_in(grid) else ():
            seen.setdefault(status.run.id, set()).update(status.run.evals)
    return shares


def _hours(runs: Sequence[Run], cost: Cost, seen: Mapping[str, Collection[EvalConfig]]) -> Sum:
    """Hours of these runs. seen: run id -> evaluations of earlier grids; of such runs only the
    other evaluations count."""

    def each(run: Run) -> float | None:
        known = seen.get(run.id)
        whole = cost.hours(run.config, [item for item in run.evals if item not in (known or ())])
        training = 0.0 if known is None else cost.hours(run.config, ())
        return None if whole is None or training is None else whole - training

    return Sum.of(map(each, runs))


def union(shares: Sequence[Share]) -> Plan:
    """The distinct runs; a run of two grids is done once it has the evaluations of both. Runs that
    are not tuned yet count as not shared."""
    merged: dict[tuple[str, str], Status] = {}
    for share in shares:
        own = "" if winners.are_in(share.grid) else share.grid.name
        for status in share.plan.statuses:
            known = merged.get((own, status.run.id))
            if known is None or known.state is State.DONE:
                merged[own, status.run.id] = status
    return Plan(list(merged.values()))


def table(shares: Sequence[Share]) -> Group:
    """A row for each grid: its runs, how many of them an earlier grid has, too, and hours; then the
    sums, for a terminal."""
    shown = Sheet("grid", ">runs", ">shared", ">done", ">estimate")
    for share in shares:
        hours = ", ".join(_sums([share]))
        done = str(share.plan.counts[State.DONE])
        runs = str(len(share.plan.statuses))
        shown.add_row(share.grid.name, runs, str(share.shared or ""), done, hours)
    every = union(shares)
    done, count = str(every.counts[State.DONE]), str(len(every.statuses))
    shown.add_row("together", count, "", done, ", ".join(_sums(shares)), style="bold")
    asked = sum(len(share.plan.statuses) for share in shares)
    saved = f"{asked - len(every.statuses)} of {asked} are shared and run once"
    bases = dict.fromkeys(share.cost.basis for share in shares if share.estimate.known)
    return Group(
        place(shares[0].cost.store, *(share.grid for share in shares)),
        shown,
        *(Text(f"estimate: {basis}") for basis in bases),
        *(line for share in shares for line in _searches(share)),
        Text.assemble(f"{saved}: ", display.counts_line(every)),
    )


def _searches(share: Share) -> list[Text]:
    return searches(share.grid, share.cost.searching(share.grid.searches), share.cost.unit)


def _sums(shares: Sequence[Share]) -> list[str]:
    """How many runs have no estimate, and the sum of the others for each unit."""
    sums: dict[str, float] = {}
    for share in shares:
        sums[share.cost.unit] = sums.get(share.cost.unit, 0) + share.estimate.known
    unknown = sum(share.estimate.unknown for share in shares)
    rest = [f"{unknown} unknown"] if unknown else []
    return rest + [spelled(hours, unit) for unit, hours in sums.items() if hours or not unknown]


def as_dict(shares: Sequence[Share]) -> dict[str, Any]:
    """Grid -> its counts and its estimate, for `--json`."""
    return {
        share.grid.name: {
            "counts": share.plan.counted,
            "shared": share.shared,
            **share.estimate.as_dict(),
            "unit": share.cost.unit,
        }
        for share in shares
    }

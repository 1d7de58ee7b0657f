"""The progress of a grid's searches: a row per search, for a terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from core.errors import counted
from core.sheet import Sheet
from sweep.grid import Grid
from sweep.grid.search import REAL, Progress, spread
from sweep.state import decision
from sweep.state.pending import Pending
from sweep.tune.winners import named

COLOURS = {"failed": "red", "interrupted": "yellow", "pending": "dim"}
SILENT = {"pending": "its job will resume it"}


def brief(seen: Sequence[Progress]) -> Text:
    """'2 of 6 searches finished, 61 of 120 trials'."""
    finished = sum(one.over for one in seen)
    trials, most = sum(one.real for one in seen), sum(one.search.trials for one in seen)
    searches = counted(len(seen), "search")
    return Text(f"{finished} of {searches} finished, {trials} of {counted(most, 'trial')}")


def tabulate(seen: Sequence[Progress], grid: Grid, workers: Sequence[Pending] = ()) -> Group:
    """A row per search, with accuracies on the validation split in percent. workers: the live
    ones."""
    shown = Sheet()
    shown.add_column("search", no_wrap=True, overflow="ellipsis")
    for column in ("trials", "best", "second", "spread"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("of these")
    shown.add_column("hyper-parameters")
    for one in seen:
        shown.add_row(*_cells(one))
    assert grid.tune
    note = f"{grid.tune.objective} accuracy on the validation split in %; spread: its standard "
    lines = [Text(f"{note}deviation over completed trials", style="dim"), brief(seen)]
    told = [*_reasons(seen), *_warnings(seen, grid.tune.least)]
    return Group(shown, *told, *_workers(workers), *lines)


def _workers(workers: Sequence[Pending]) -> list[Text]:
    """'3 workers: 1 running, 2 pending (Priority)'; [] if there are none."""
    counts = Counter(map(standing, workers))
    words = [
        f"{count} {state}{f' ({reason})' if reason else ''}"
        for (state, reason), count in counts.items()
    ]
    return [Text(f"{counted(len(workers), 'worker')}: {', '.join(words)}")] if workers else []


def standing(worker: Pending) -> tuple[str, str | None]:
    """(state, what it waits for or None) of a live worker. state: 'running', 'pending' or
    'unknown'; a process on this machine is always running."""
    state = worker.state
    if state is None:
        return ("unknown" if worker.name else "running"), None
    reason = decision.waits(worker) if state.state != "RUNNING" else None
    return state.state.lower(), reason


def _cells(one: Progress) -> list[str | Text]:
    states = (*REAL, "running", "pending", "interrupted", "failed")
    counts = ", ".join(f"{one.counts[state]} {state}" for state in states if one.counts[state])
    best = one.ranked[0].record["params"] if one.ranked else {}
    values = [f"{100 * value:.2f}" for value in one.values[:2]]
    std = (spread(one.values) or {}).get("std")
    return [
        one.search.name,
        Text(f"{one.real}/{one.search.trials}", style="green" if one.over else ""),
        *[*values, "-", "-"][:2],
        "-" if std is None else f"{100 * std:.2f}",
        counts + (", out of time" if one.out_of_time else ""),
        ", ".join(f"{name.removeprefix('optim.')} {_shown(value)}" for name, value in best.items()),
    ]


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _reasons(seen: Sequence[Progress]) -> list[Text]:
    """A line for each distinct reason for which trials failed, were interrupted or are pending."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in seen:
        for trial in one.trials:
            if trial.state in COLOURS:
                where = f"{one.search.name} trial {trial.number}"
                why = trial.reason or SILENT.get(trial.state, "no reason given")
                told = trial.kind in (None, *why.split()[:1]) or trial.state == "failed"
                why = why if told else f"{trial.kind}: {why}"
                alike.setdefault((trial.state, why), []).append(where)
    lines = [
        Text(f"{state}: {named(names)}: {why}", style=COLOURS[state])
        for (state, why), names in alike.items()
    ]
    if any(state == "failed" for state, _ in alike):
        lines.append(
            Text(
                "`sweep retry` or `sweep tune` tries failed trials again",
                style="dim",
            )
        )
    return lines


def _warnings(seen: Sequence[Progress], least: int) -> list[Text]:
    few = [one for one in seen if one.over and one.real < least]
    return [
        Text(
            f"{one.search.name}: {counted(one.real, 'trial')}, expected at least {least}; "
            "its results are flagged",
            style="yellow",
        )
        for one in few
    ]


def exit_code(seen: Sequence[Progress]) -> int:
    """0 if every search is finished; else 1 if trials failed, else 3."""
    if all(one.over for one in seen):
        return 0
    return 1 if any(one.counts["failed"] for one in seen) else 3


def as_dict(
    seen: Sequence[Progress], least: int, workers: Sequence[Pending] = ()
) -> dict[str, Any]:
    """The shape of `tune --json`."""
    jobs = [
        {"job": item.job, "state": state, "reason": reason}
        for item in workers
        for state, reason in (standing(item),)
    ]
    return {"searches": [_as_dict(one, least) for one in seen], "workers": jobs}


def _as_dict(one: Progress, least: int) -> dict[str, Any]:
    ranked = [{"trial": t.number, **t.record} for t in one.ranked[:2]]
    return {
        "search": one.search.id,
        "over": one.over,
        "trials": one.real,
        "counts": dict(one.counts),
        "kinds": dict(Counter(trial.kind for trial in one.trials if trial.kind)),
        "minutes": round(one.minutes, 2),
        "best": ranked[0] if ranked else None,
        "second": ranked[1] if len(ranked) > 1 else None,
        "spread": spread(one.values),
        "few_trials": one.over and one.real < least,
        "winner": one.winner,
        "folder": str(one.search.path),
    }

"""How far the searches of a grid are: a line per search, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from core.sheet import Sheet
from sweep.grid import Grid
from sweep.grid.search import REAL, Progress, spread
from sweep.tune.winners import named


def brief(seen: Sequence[Progress]) -> Text:
    """'2 of 6 searches are through, 61 of 120 trials'."""
    through = sum(one.over for one in seen)
    trials, most = sum(one.real for one in seen), sum(one.search.trials for one in seen)
    return Text(f"{through} of {len(seen)} searches are through, {trials} of {most} trials")


def table(seen: Sequence[Progress], grid: Grid) -> Group:
    """One line per search; values in percent of the validation split."""
    shown = Sheet(box=None, pad_edge=False, header_style="bold")
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
    return Group(shown, *_reasons(seen), *_warnings(seen, grid.tune.least), *lines)


def _cells(one: Progress) -> list[str | Text]:
    states = (*REAL, "running", "interrupted", "failed")
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
        ", ".join(f"{name.removeprefix('optim.')} {value:g}" for name, value in best.items()),
    ]


def _reasons(seen: Sequence[Progress]) -> list[Text]:
    alike: dict[str, list[str]] = {}
    for one in seen:
        for trial in one.trials:
            if trial.state == "failed":
                where = f"{one.search.name} trial {trial.number}"
                alike.setdefault(trial.reason or "no reason given", []).append(where)
    return [Text(f"failed: {named(names)}: {why}", style="red") for why, names in alike.items()]


def _warnings(seen: Sequence[Progress], least: int) -> list[Text]:
    few = [one for one in seen if one.over and one.real < least]
    return [
        Text(
            f"{one.search.name}: {one.real} trials, expected at least {least}; "
            "its results are flagged",
            style="yellow",
        )
        for one in few
    ]


def as_dict(seen: Sequence[Progress], least: int) -> dict[str, Any]:
    """The shape of `tune --json`."""
    return {"searches": [_as_dict(one, least) for one in seen]}


def _as_dict(one: Progress, least: int) -> dict[str, Any]:
    ranked = [{"trial": t.number, **t.record} for t in one.ranked[:2]]
    return {
        "search": one.search.id,
        "over": one.over,
        "trials": one.real,
        "counts": dict(one.counts),
        "minutes": round(one.minutes, 2),
        "best": ranked[0] if ranked else None,
        "second": ranked[1] if len(ranked) > 1 else None,
        "spread": spread(one.values),
        "few_trials": one.over and one.real < least,
        "winner": one.winner,
        "folder": str(one.search.path),
    }

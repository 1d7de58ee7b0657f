"""Flags for results whose hyper-parameters come from too small a search.

A manifest records for each tuned run the winner it uses (see sweep.grid.search): `trials` of the
search, and `least`, the number that its grid asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from analysis.results import Results
from analysis.runs import Run
from analysis.tables import DOUBLE_DAGGER, NAMED, Entry, Table
from core.errors import counted


def weak(results: Results) -> dict[tuple[str, ...], Run]:
    """`place` -> run, for runs of searches with too few trials."""
    return {place(run): run for run in results.runs if is_weak(run)}


def is_weak(run: Run) -> bool:
    """Whether the search behind a run had fewer trials than its grid asks for."""
    return run.tuned is not None and run.tuned["trials"] < run.tuned["least"]


def place(run: Run) -> tuple[str, ...]:
    """(model, dataset, setting, variant, eps_g): where tables show a run. eps_g is '' for standard
    runs."""
    about = run.about
    at = str(run.epsilon_g) if run.epsilon_g else ""
    return (*(about[name] for name in ("model", "dataset", "setting", "variant")), at)


def sentence(results: Results) -> str | None:
    """A sentence on which results come from too few trials, or None if none do."""
    found = weak(results)
    if not found:
        return None
    least = max(run.tuned["least"] for run in found.values() if run.tuned)
    counts = sorted({run.tuned["trials"] for run in found.values() if run.tuned})
    span = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    plural = "" if counts[-1] == 1 else "s"
    names = list(dict.fromkeys(map(place_name, found)))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    if counts == [0]:
        told = "hyper-parameters drawn at random, nothing was searched"
    else:
        told = f"hyper-parameters from a search of {span} trial{plural}, expected at least {least}"
    return f"{told}: {', '.join(names[:NAMED])}{more}"


def place_name(place: tuple[str, ...]) -> str:
    """'SWIN/Cars/fix at 4/255'."""
    model, dataset, setting, _, at = place
    return f"{model}/{dataset}/{setting}" + (f" at {at}" if at else "")


def origin(run: Run) -> str | None:
    """Where the hyper-parameters of a run come from; None if it is not tuned."""
    if run.tuned is None:
        return None
    values = named_values(run.tuned["params"])
    if not run.tuned["trials"]:
        return f"{values}: a random draw, nothing was searched ({run.tuned['search']})"
    few = f" (expected at least {run.tuned['least']})" if is_weak(run) else ""
    trials = counted(run.tuned["trials"], "trial")
    return f"{values}: best of {trials}{few} of search {run.tuned['search']}"


def named_values(params: Mapping[str, float | str]) -> str:
    """'optim.lr 0.0012, optim.rate constant'."""
    return ", ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}"
        for name, value in params.items()
    )


def flagged(table: Table, results: Results) -> Table:
    """The table with a mark at every number that comes from too few trials, and a note. Tables of
    means get the note only."""
    text = sentence(results)
    return noted(table, weak(results), text, DOUBLE_DAGGER) if text else table


def noted(table: Table, found: Collection[tuple[str, ...]], text: str, sign: str) -> Table:
    """The table with `sign` at every number of these places, and a note. Tables of means get the
    note only."""
    rows = tuple(
        (labels, tuple(_marked(entry, found, sign) for entry in entries))
        for labels, entries in table.rows
    )
    entries = [entry for _, line in rows for entry in line]
    means = any(entry.cell and not entry.cell.over_seeds for entry in entries)
    if rows == table.rows and not means:
        return table
    return replace(table, rows=rows, notes=(*table.notes, f"{sign} {text}"))


def _marked(entry: Entry, found: Collection[tuple[str, ...]], sign: str) -> Entry:
    key = entry.key
    if key is None or sign in entry.mark:
        return entry
    names = key.model, key.dataset, key.setting, key.variant
    places = (*names, str(key.strength)), (*names, "")
    if not any(place in found for place in places):
        return entry
    return replace(entry, mark=entry.mark + sign)

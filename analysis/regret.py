"""How far each schedule falls short of the best of its cell, and whether it beats `sched`.

Settings compete within a cell: one model, dataset, eps_g and variant (epochs, learning rate, ...).
The oracle of a cell is its best setting in hindsight, as if schedules were chosen by their results
on the test images.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.cells import Cell, Key, group_cells
from analysis.choice import one_evaluation
from analysis.names import SETTINGS, in_order
from analysis.paper import describe_values
from analysis.rounding import half_up
from analysis.statistics import bootstrap, holm, paired_test
from analysis.tables import ABSENT, TITLES, Entry, Table, cell_name, problems, rivals
from core.config import ConfigError

REFERENCE = "sched"
MARGIN = 1.0
"""Points of adversarial accuracy that a better schedule may lose: clean accuracy counts in the
expected one, so a schedule can gain there by giving up adversarial accuracy."""
LEVEL = 0.05
COLUMNS = (
    "cells",
    "expected",
    "mean regret",
    "worst regret",
    "against sched",
    "higher, lower",
    "p (Holm)",
    "adv",
)


def regret_frame(values: pd.DataFrame) -> pd.DataFrame:
    """One line per cell and setting. values: as `Results.values`.

    Columns: those of a cell, setting, expected and adv (percent); regret (points of expected below
    the best setting of the cell), gain and adv_gain (points of expected and adv above `sched`, NaN
    in cells without it). Incomplete cells are left out, as their best setting is unknown.
    """
    found = group_cells(one_evaluation(values))
    lines = [line for keys in _cells(found) for line in _lines(found, keys)]
    frame = pd.DataFrame(lines, columns=[*CELL, "setting", "expected", "adv"])
    best = frame.groupby(CELL)["expected"].transform("max")
    sched = frame[frame["setting"] == REFERENCE].set_index(CELL)[["expected", "adv"]]
    beside = frame[CELL].join(sched, on=CELL)
    return frame.assign(
        regret=best - frame["expected"],
        gain=frame["expected"] - beside["expected"],
        adv_gain=frame["adv"] - beside["adv"],
    )


CELL = ["model", "dataset", "epsilon_g", "norm", "variant"]


def _cells(found: Mapping[Key, Cell]) -> list[list[Key]]:
    """The keys of each cell's settings, for complete cells with more than one."""
    groups = rivals(key for key in found if key.metric == "expected")
    return [keys for keys in groups if len(keys) > 1 and all(found[key].complete for key in keys)]


def _lines(found: Mapping[Key, Cell], keys: list[Key]) -> list[tuple[object, ...]]:
    return [
        (
            *(getattr(key, name) for name in CELL),
            key.setting,
            found[key].value,
            found[key._replace(metric="adv")].value,
        )
        for key in keys
    ]


def regret_table(values: pd.DataFrame) -> Table:
    """One line per setting, over the cells that have `sched`. Raises ConfigError if there are
    none."""
    rows = one_evaluation(values)
    cells = group_cells(rows)
    frame = regret_frame(values).dropna(subset="gain")
    if frame.empty:
        raise ConfigError(
            "--table regret: no cell here has complete results of `sched` and of another setting"
        )
    groups = {str(name): group for name, group in frame.groupby("setting")}
    names = in_order(groups, SETTINGS)
    p = holm({name: _p(groups[name]) for name in names if name != REFERENCE})
    better = [name for name in p if _is_better(groups[name], p[name])]
    asked = {key._replace(setting="", metric="") for key in cells if key.setting == REFERENCE}
    notes = [
        describe_values(rows),
        f"{frame.groupby(CELL).ngroups} of {len(asked)} cells are complete; a cell is one model, "
        "dataset, eps_g and variant, its seeds averaged; standard fine-tuning does not compete",
        "regret: expected robustness below the best setting of the cell, in points",
        "against sched: mean difference in points with its 95 % interval (bootstrap over cells), "
        "cells in which it is higher and lower, Wilcoxon's signed-rank test over cells, p after "
        f"Holm's correction for {len(p)} settings; adv: mean difference in adversarial accuracy",
        f"better than sched (p below {LEVEL}, adv not lower by more than {MARGIN:.0f} point): "
        f"{', '.join(better) or 'none'}",
        *_worst(groups),
        *problems({key: cell for key, cell in cells.items() if not cell.complete}),
    ]
    return Table(
        "Regret of each schedule",
        (TITLES["setting"],),
        tuple((name,) for name in COLUMNS),
        tuple(((name,), _entries(groups[name], p.get(name), name in better)) for name in names),
        tuple(notes),
        complete=all(cell.complete for cell in cells.values()),
    )


def _p(group: pd.DataFrame) -> float:
    """Wilcoxon's p-value over cells; nan below two, or where all differ equally."""
    mine, theirs = group["expected"], group["expected"] - group["gain"]
    several = len(group) > 1
    return paired_test(theirs.to_numpy(), mine.to_numpy()).wilcoxon_p if several else float("nan")


def _is_better(group: pd.DataFrame, p: float) -> bool:
    return bool(p < LEVEL and group["gain"].mean() > 0 and group["adv_gain"].mean() >= -MARGIN)


def _worst(groups: Mapping[str, pd.DataFrame]) -> list[str]:
    """For each setting with several cells, the cell in which its regret is largest."""
    several = {name: group for name, group in groups.items() if len(group) > 1}
    places = []
    for name, group in several.items():
        cell = group.sort_values("regret", kind="stable").iloc[[-1]]
        if cell["regret"].item() > 0:
            model, dataset, epsilon_g, norm, variant = cell[CELL].iloc[0]
            key = Key(variant, "", model, dataset, epsilon_g, name, "expected", norm)
            places.append(cell_name(key))
    return [f"worst regret: {', '.join(places)}"] if places else []


def _entries(group: pd.DataFrame, p: float | None, better: bool) -> tuple[Entry, ...]:
    """p: None for the reference."""
    gain = group["gain"].to_numpy()
    low, high = bootstrap(gain)
    interval = f" [{half_up(low):+}, {half_up(high):+}]" if len(gain) > 1 else ""
    against = (
        f"{half_up(gain.mean()):+}{interval}",
        f"{(gain > 0).sum()}, {(gain < 0).sum()}",
        ABSENT if pd.isna(p) else f"{p:.2g}",
        f"{half_up(group['adv_gain'].mean()):+}",
    )
    regret = group["regret"]
    scores = (group["expected"].mean(), regret.mean(), regret.max())
    shown = [str(len(group)), *(str(half_up(float(score))) for score in scores)]
    shown += against if p is not None else [ABSENT] * len(against)
    return tuple(Entry(text, better) for text in shown)

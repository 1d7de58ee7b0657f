"""What the results show, in sentences whose every number is computed from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import pandas as pd

from analysis.cells import Cell, Key, at, group_cells
from analysis.choice import one_evaluation
from analysis.paper import compared
from analysis.results import Results
from analysis.rounding import difference, half_up
from analysis.runs import Run
from analysis.statistics import median_delay
from analysis.tables import ABSENT, Entry, Table, bracketed
from core.config import Strength
from core.errors import counted
from core.store.records import DELAY_THRESHOLD, threshold

SUBOPTIMAL = 20.0
"""Points of clean accuracy by which fix must be below sched to count as suboptimal transfer."""


@dataclass(frozen=True)
class Gaps:
    """sched minus fix in points, over the (model, dataset) pairs for which both are complete."""

    variant: str
    strength: Strength
    clean: tuple[float, ...]
    expected: tuple[float, ...]
    asked: tuple[tuple[str, str], ...]
    """(model, dataset) of each pair asked for."""

    @property
    def pairs(self) -> int:
        return len(self.asked)

    @property
    def suboptimal(self) -> int:
        return sum(gap >= SUBOPTIMAL for gap in self.clean)


def gaps(frame: pd.DataFrame) -> list[Gaps]:
    """One `Gaps` per variant and eps_g at which both fix and sched are asked for."""
    found = compared(group_cells(one_evaluation(frame)))
    both = {
        key._replace(setting="", metric="")
        for key in found
        if (key.setting, key.metric) == ("fix", "clean") and key._replace(setting="sched") in found
    }
    return [
        Gaps(
            variant,
            strength,
            tuple(_differences(found, pairs, "clean")),
            tuple(_differences(found, pairs, "expected")),
            tuple((pair.model, pair.dataset) for pair in pairs),
        )
        for variant, strength in sorted({(pair.variant, pair.strength) for pair in both})
        if (pairs := [p for p in sorted(both) if (p.variant, p.strength) == (variant, strength)])
    ]


def _differences(found: dict[Key, Cell], pairs: Iterable[Key], metric: str) -> Iterable[float]:
    for pair in pairs:
        fix, sched = (
            found[pair._replace(setting=setting, metric=metric)] for setting in ("fix", "sched")
        )
        if fix.complete and sched.complete and fix.value is not None and sched.value is not None:
            yield difference(fix.value, sched.value)


def finding(results: Results) -> str:
    """One sentence: does training at a fixed strength transfer worse here, and by how much?"""
    found = [gap for gap in gaps(results.values) if gap.clean]
    if not found:
        return "Nothing to compare yet: no pair of fix and sched is complete."

    def how_bad(gap: Gaps) -> tuple[float, ...]:
        return gap.suboptimal, _never(_runs(results, gap, "fix")), median(gap.clean)

    worst = max(found, key=how_bad)
    better = sum(gap > 0 for gap in worst.expected)
    low, high = (half_up(f(worst.clean), 1) for f in (min, max))
    width = f"gaps {low} to {high}" if low != high else f"gap {low}"
    head = "Suboptimal transfer shows" if worst.suboptimal else "No suboptimal transfer here"
    missing = worst.pairs - len(worst.clean)
    said = f" ({counted(missing, 'pair')} not complete)" if missing else ""
    others = _others(results, worst)
    left_out = f"Robust backbones and ImageNette ({counted(others, 'pair')}) are not counted."
    apart = f" {left_out}" if others else ""
    return (
        f"{head}: at eps_g = {worst.strength}{bracketed(worst.variant)}, fix ends "
        f"at least {SUBOPTIMAL:.0f} points of clean accuracy below sched on {worst.suboptimal} of "
        f"{len(worst.clean)} backbone-dataset pairs ({width} points), expected "
        f"robustness is higher with sched on {better} of {len(worst.expected)}, and "
        f"{_delays(results, worst)}{said}.{apart}"
    )


def _others(results: Results, gap: Gaps) -> int:
    """Number of pairs at the strength of a gap that have separate tables (robust backbones,
    ImageNette)."""
    fixes = _of_setting(results, gap, "fix")
    return len({*zip(fixes["model"], fixes["dataset"], strict=True)} - {*gap.asked})


def _runs(results: Results, gap: Gaps, setting: str) -> pd.DataFrame:
    """The runs of one setting that a gap was computed from."""
    table = _of_setting(results, gap, setting)
    pairs = zip(table["model"], table["dataset"], strict=True)
    return table[[pair in gap.asked for pair in pairs]]


def _of_setting(results: Results, gap: Gaps, setting: str) -> pd.DataFrame:
    table = at(results.table, gap.strength)
    return table[(table["variant"] == gap.variant) & (table["setting"] == setting)]


def _never(runs: pd.DataFrame) -> int:
    """Number of runs that never adapted."""
    return int((runs["delay"] >= runs["epochs"]).sum())


def _delays(results: Results, gap: Gaps) -> str:
    said = []
    for setting in ("fix", "sched"):
        runs = _runs(results, gap, setting)
        runs = runs[runs["delay"].notna()]
        never = f"in {_never(runs)} of {counted(len(runs), 'run')}"
        middle = median_delay(runs["delay"], runs["epochs"])
        if middle == float("inf"):
            said.append(f"{setting} never adapts {never}")
            continue
        bracket = f" (never {never})" if _never(runs) else ""
        epochs = "epoch" if middle == 1 else "epochs"
        said.append(f"{setting} adapts after {middle:g} {epochs} in the median{bracket}")
    return ", ".join(said)


def delay_table(results: Results) -> Table:
    """Adaptation delay of every run: one line per (model, dataset), with all seeds in a cell."""
    delays: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = defaultdict(dict)
    for run in results.runs:
        about = run.about
        strength = str(run.epsilon_g) if run.epsilon_g else "not attacked"
        line = delays[about["model"], about["dataset"]]
        line.setdefault((strength, run.setting), []).append(_shown(run))
    columns = list(dict.fromkeys(column for line in delays.values() for column in line))
    columns.sort(key=lambda column: column[0] != "not attacked")
    rows = tuple(
        (pair, tuple(Entry(", ".join(line.get(column, [ABSENT]))) for column in columns))
        for pair, line in delays.items()
    )
    header = ("Model", "Dataset")
    return Table("Adaptation delay", header, tuple(columns), rows, (delay_rule(results),))


def delay_rule(results: Results) -> str:
    """How the delays of these runs are defined: the accuracy above which a run has adapted, for
    each dataset."""
    tasks: dict[float, dict[str, None]] = defaultdict(dict)
    unknown: dict[str, None] = {}
    # Runs that have not begun do not know it; others of their dataset may.
    by_dataset = results.table.groupby("dataset", sort=False)["classes"].max()
    for dataset, classes in by_dataset.items():
        known = None if pd.isna(classes) else int(classes)
        tasks[threshold(known)][f"{dataset}, {known} classes"] = None
        if known is None:
            unknown[str(dataset)] = None
    limits = [
        f"{100 * limit:.3g} %" + (f" ({'; '.join(names)})" if limit != DELAY_THRESHOLD else "")
        for limit, names in sorted(tasks.items())
    ]
    said = f"First epoch (from 0) whose validation clean accuracy exceeds {', '.join(limits)}"
    if set(tasks) - {DELAY_THRESHOLD}:
        said += "; the paper's rule, made for 100 classes and more, is 5 %"
    if unknown:
        said += f"; 5 % for {', '.join(unknown)}, whose number of classes is unknown"
    return said


def _shown(run: Run) -> str:
    if run.delay is None:
        return run.state
    return "never" if run.delay >= run.config["epochs"] else str(run.delay)

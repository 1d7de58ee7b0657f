"""Tables 9 to 11: paired tests and means over the (model, dataset) pairs of Tables 1 and 2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from analysis.cells import Cell, Key
from analysis.names import METRICS
from analysis.rounding import half_up
from analysis.statistics import PairedTest, paired_test
from analysis.tables import TITLES, Entry, Table, cell_name
from core.config import Strength

Over = Literal["dataset", "model"]
"""What a mean is taken over: datasets in Table 10, models in Table 11."""


@dataclass(frozen=True)
class Tested:
    """One line of Table 9. test: None if pairs are missing and partial tests are not allowed."""

    variant: str
    strength: Strength
    metric: str
    pairs: int
    missing: tuple[str, ...]
    test: PairedTest | None


def means(found: Mapping[Key, Cell], over: Over, *, partial: bool = False) -> dict[Key, Cell]:
    """Means over all datasets (or models), in cells whose dataset (or model) is called 'mean'.

    A mean with an incomplete part has no value; with `partial` it is taken over the complete parts,
    and `measured` counts them.
    """
    asked = {getattr(key, over) for key in found}
    groups: dict[Key, list[Cell]] = defaultdict(list)
    for key, cell in found.items():
        groups[_averaged(key, over)].append(cell)
    return {key: _mean(parts, len(asked), over, partial) for key, parts in groups.items()}


def _averaged(key: Key, over: Over) -> Key:
    match over:
        case "dataset":
            return key._replace(dataset="mean")
        case "model":
            return key._replace(model="mean")
        case _:
            assert_never(over)


def _mean(parts: Sequence[Cell], asked: int, over: Over, partial: bool) -> Cell:
    values = [part.value for part in parts if part.complete and part.value is not None]
    whole = len(values) == asked
    value = sum(values) / len(values) if values and (whole or partial) else None
    state = "done" if whole else "partial" if value is not None else "incomplete"
    n = tuple(sorted({n for part in parts for n in part.n}))
    return Cell(value, None, len(values), asked, n, state, unit=f"{over}s")


def paired_tests(found: Mapping[Key, Cell], *, partial: bool = False) -> list[Tested]:
    """sched against fix over the (model, dataset) pairs, for each variant, strength and metric
    with at least two pairs.

    Variants are tested separately, as the same pair in another variant is no independent evidence.
    With incomplete pairs there is no test, or with `partial` one over the complete pairs.
    """
    fixes = defaultdict(list)  # grouped once, as a tuned grid has as many variants as cells
    for key in found:
        if key.setting == "fix" and key._replace(setting="sched") in found:
            fixes[key.variant, key.strength, key.metric].append(key)
    return [
        tested
        for variant in dict.fromkeys(key.variant for key in found)
        for strength in sorted({key.strength for key in found})
        for metric in METRICS
        if (which := (variant, strength, metric)) in fixes
        and (tested := _tested(found, which, fixes[which], partial))
    ]


def _tested(
    found: Mapping[Key, Cell],
    which: tuple[str, Strength, str],
    fixes: Sequence[Key],
    partial: bool,
) -> Tested | None:
    """which: variant, strength and metric; fixes: the keys of its pairs."""
    values, missing = [], []
    for key in fixes:
        fix, sched = found[key], found[key._replace(setting="sched")]
        if fix.complete and sched.complete:
            values.append((fix.value, sched.value))
        else:
            missing.append(cell_name(key._replace(setting="fix, sched")))
    if len(fixes) < 2:
        return None
    allowed = len(values) > 1 and (partial or not missing)
    first, second = np.array(values, dtype=float).reshape(-1, 2).T
    test = paired_test(first, second) if allowed else None
    return Tested(*which, len(fixes), tuple(missing), test)


STATISTICS = {
    "mean difference": ("difference", 2),
    "t": ("t", 3),
    "p": ("p", 0),
    "Wilcoxon W": ("wilcoxon", 1),
    "p (Wilcoxon)": ("wilcoxon_p", 0),
    "d": ("effect", 2),
}
"""Column -> (field of PairedTest, decimals; 0 for three significant digits)."""


def tests_table(tests: Sequence[Tested], title: str) -> Table:
    """Table 9: one line per strength and metric, and per variant if there are several."""
    fields = ["strength", *["variant"] * any(tested.variant for tested in tests), "metric"]
    rows = tuple(
        (tuple(str(getattr(tested, name)) for name in fields), _statistics(tested))
        for tested in tests
    )
    notes = [
        "sched minus fix in points over (model, dataset) pairs; two-sided paired t-test, Wilcoxon "
        "signed-rank test, d = mean / sample standard deviation of the differences"
    ]
    for names in dict.fromkeys(tested.missing for tested in tests if tested.missing):
        notes.append(f"pairs left out as incomplete: {', '.join(names)}")
    return Table(
        f"{title}paired tests of sched against fix",
        tuple(TITLES[name] for name in fields),
        tuple((name,) for name in ("pairs", *STATISTICS)),
        rows,
        tuple(notes),
        complete=not any(tested.missing for tested in tests),
    )


def _statistics(tested: Tested) -> tuple[Entry, ...]:
    done = tested.pairs - len(tested.missing)
    count = str(done) if not tested.missing else f"{done}/{tested.pairs}"
    if tested.test is None:
        return (Entry(count), *(Entry("incomplete") for _ in STATISTICS))
    shown = []
    for field, digits in STATISTICS.values():
        value = getattr(tested.test, field)
        shown.append(Entry(str(half_up(value, digits)) if digits else f"{value:.3g}"))
    return (Entry(count), *shown)

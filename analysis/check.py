"""Is the paper consistent with itself? Numbers that differ between its tables, numbers that no
accuracy curve can have, missing numbers, and counts to compare its claims with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import product

import pandas as pd

from analysis.cells import Cell, Key, group_cells
from analysis.choice import one_evaluation
from analysis.gates import ROUNDING, cell_gates
from analysis.names import METRICS
from analysis.paper import compared
from analysis.published import PRESET_HINGES, TABLES, load_published
from analysis.rounding import difference
from analysis.tables import bracketed, cell_name, pairs

PRESETS = {hinges: preset for preset, hinges in PRESET_HINGES.items()}
DEFAULT_ATTACK = "APGD"


def check_published() -> str:
    """The report on the published numbers, as Markdown."""
    frame = load_published()
    parts = {
        "Cells with different values in different tables": disagreements(),
        "Numbers that contradict each other within a table": impossible(frame),
        "Cells missing in the source": missing(),
        "Claims, counted": claims(frame),
    }
    sections = (
        f"## {title} ({len(lines)})\n\n" + "\n".join(f"- {line}" for line in lines or ["none"])
        for title, lines in parts.items()
    )
    return "\n\n".join(sections) + "\n"


def disagreements() -> list[str]:
    """Cells whose value differs between tables, a line each: 'SWIN/Cars/fix at 4/255 adv: 29.70
    (Tables 1, 4, 8), ...'."""
    seen: dict[Key, dict[float, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number in TABLES:
        for key, cell in group_cells(load_published(number)).items():
            if cell.value is not None:
                seen[_plain(key)][cell.value].append(number)
    return [
        f"{cell_name(key)} {key.metric}: "
        + ", ".join(f"{value:.2f} ({_tables(numbers)})" for value, numbers in values.items())
        for key, values in seen.items()
        if len(values) > 1
    ]


def _plain(key: Key) -> Key:
    """The key of the same cell in the naming that all tables share."""
    attack = "" if key.evaluation == DEFAULT_ATTACK else key.evaluation
    return key._replace(evaluation=attack, setting=PRESETS.get(key.setting, key.setting))


def _tables(numbers: list[int]) -> str:
    return f"Table{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def impossible(frame: pd.DataFrame) -> list[str]:
    """Cells that violate adv <= expected <= clean, or whose expected accuracy no falling curve can
    have, a line each."""
    found = group_cells(frame)
    texts = [violation.text for violation in cell_gates(found)]
    for key, cell in found.items():
        if key.metric == "expected" and cell.value is not None:
            clean, adv = (found[key._replace(metric=m)].value for m in ("clean", "adv"))
            if clean is not None and adv is not None:
                texts += _out_of_bounds(key, clean, adv, cell.value)
    return texts


def _out_of_bounds(key: Key, clean: float, adv: float, expected: float) -> Iterator[str]:
    """A falling curve from clean to adv over k steps has its trapezoid mean between that of a curve
    that falls in the first step and that of one that falls in the last."""
    k = round(key.epsilon_g)
    low = (clean + (2 * k - 1) * adv) / (2 * k)
    high = ((2 * k - 1) * clean + adv) / (2 * k)
    ordered = adv - ROUNDING <= expected <= clean + ROUNDING
    if ordered and not low - 2 * ROUNDING <= expected <= high + 2 * ROUNDING:
        yield (
            f"{cell_name(key)}: expected {expected:.2f} outside [{low:.2f}, {high:.2f}], "
            f"the range for clean {clean:.2f} and adv {adv:.2f}"
        )


def missing() -> list[str]:
    """Cells without a number, table by table."""
    found = []
    for number in TABLES:
        for key, cell in group_cells(load_published(number)).items():
            if cell.value is None:
                found.append(f"Table {number}: {cell_name(key)} {key.metric}")
    return found


def claims(frame: pd.DataFrame) -> list[str]:
    """For each variant, strength and metric, on how many pairs fix or sched is better."""
    found = compared(group_cells(one_evaluation(frame)))
    variants = dict.fromkeys(key.variant for key in found)
    strengths = sorted({key.strength for key in found})
    lines = []
    groups = defaultdict(list)  # grouped once, as a tuned grid has as many variants as cells
    for key in found:
        groups[key.variant, key.strength, key.metric].append(key)
    for which in product(variants, strengths, METRICS):
        fix, sched, equal = _count(groups[which], found)
        total = fix + sched + equal
        if total:
            variant, strength, metric = which
            lines.append(
                f"{metric} at {strength}{bracketed(variant)}: sched better in "
                f"{sched} of {total}, fix better in {fix} of {total}, equal in {equal}"
            )
    return lines


def _count(keys: list[Key], found: Mapping[Key, Cell]) -> tuple[int, int, int]:
    """The numbers of pairs on which (fix is better, sched is better, both are equal)."""
    gaps = [
        difference(found[key].value or 0.0, found[other].value or 0.0)
        for key, other in pairs(keys)
        if found[key].complete and found[other].complete
    ]
    return sum(gap < 0 for gap in gaps), sum(gap > 0 for gap in gaps), sum(gap == 0 for gap in gaps)

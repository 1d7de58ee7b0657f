"""The paper's tables by number (arXiv 2509.23325): which cells each has, and its layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.cells import BY, Cell, Key, at, group_cells, strengths
from analysis.choice import attacked, by_hinges, one_evaluation, under_attacks
from analysis.derived import Over, means, paired_tests, tests_table
from analysis.gates import cell_gates, constant_gates, marked, masking_gates, notes, row_gates
from analysis.kinds import KINDS, kind_of
from analysis.names import ACCURACY, CORRUPTED, METRICS, NORMS, ROBUST, SETTINGS
from analysis.rounding import half_up
from analysis.tables import PLUS_MINUS, Table, pivot, winners
from core.config import ConfigError

Cells = Mapping[Key, Cell]
Sure = Callable[[Cells, pd.DataFrame], Collection[Key]]


@dataclass(frozen=True)
class Spec:
    """A table of accuracies. keep: (cell, all cells) -> whether the table has the cell."""

    title: str
    keep: Callable[[Key, Cells], bool]
    rows: Sequence[str] = ("model", "setting")
    columns: Sequence[str] = ("strength", "dataset", "metric")
    settings: Sequence[str] = SETTINGS


AT_ONE = Spec("", lambda *_: True, columns=("dataset", "metric"))
"""Layout for what a grid measured at one strength."""
AT_ALL = Spec("", lambda *_: True)
"""Layout for evaluations other than attacks, all strengths in one table."""
FINE = 4
"""Decimals of metrics whose range is not known."""


def is_main(key: Key) -> bool:
    """Whether a cell's pair is in Tables 1 and 2: a non-robust backbone, a fine-grained dataset."""
    return not _robust(key.model) and key.dataset != "ImageNette"


def _main(key: Key) -> bool:
    return key.setting in ("fix", "sched") and is_main(key)


def compared(found: Cells) -> dict[Key, Cell]:
    """The cells that counts over pairs use: those of the paper's main pairs, or all if a grid has
    none of them. Robust backbones and ImageNette have separate tables."""
    return {key: cell for key, cell in found.items() if is_main(key)} or dict(found)


def _robust(model: str) -> bool:
    return model in ROBUST


def _beside(setting: str) -> Callable[[Key, Cells], bool]:
    """Keeps fix, sched and `setting`, on the pairs for which `setting` was asked for."""

    def keep(key: Key, found: Cells) -> bool:
        asked = key.setting in ("fix", "sched", setting)
        return asked and key._replace(setting=setting) in found

    return keep


SPECS = {
    1: Spec(
        "fix and sched, eps_g = 4/255",
        lambda key, _: _main(key) and str(key.strength) == "4/255",
        columns=("dataset", "metric"),
    ),
    2: Spec(
        "fix and sched, eps_g = 8/255",
        lambda key, _: _main(key) and str(key.strength) == "8/255",
        columns=("dataset", "metric"),
    ),
    3: Spec("robust backbones", lambda key, _: _robust(key.model)),
    4: Spec("the automatic schedule", _beside("auto"), settings=("fix", "sched", "auto")),
    6: Spec(
        "one model under several attacks",
        lambda key, _: key.setting in ("fix", "sched"),
        rows=("strength", "model", "evaluation", "setting"),
        columns=("dataset", "metric"),
    ),
    7: Spec(
        "hinges T1 and T2",
        lambda *_: True,
        rows=("model", "dataset", "setting"),
        columns=("strength", "metric"),
    ),
    8: Spec("a strength drawn per epoch", _beside("uniform"), settings=("fix", "uniform", "sched")),
    12: Spec("ImageNette", lambda key, _: key.dataset == "ImageNette"),
}
DERIVED: dict[int, Over] = {10: "dataset", 11: "model"}
NUMBERS = (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12)


def table_cells(number: int, frame: pd.DataFrame, *, partial: bool = False) -> dict[Key, Cell]:
    """The cells of one of the paper's tables; {} if the frame has none for it.

    partial: the means of Tables 10 and 11 leave out incomplete cells and count the others.
    Table 9 has no cells: see `derived.paired_tests`. Raises ConfigError for an unknown number.
    """
    if number in DERIVED:
        return means(main_cells(frame), DERIVED[number], partial=partial)
    if number not in SPECS:
        known = ", ".join(map(str, NUMBERS))
        hint = ": it lists backbones, see sweep weights list" if number == 5 else ""
        raise ConfigError(f"--table: no Table {number} here{hint} (expected one of {known})")
    found = group_cells(table_frame(number, frame))
    keep = SPECS[number].keep
    return {key: cell for key, cell in found.items() if keep(key, found)}


def main_cells(frame: pd.DataFrame) -> dict[Key, Cell]:
    """The cells of Tables 1 and 2 at every strength, from which Tables 9 to 11 are computed."""
    found = group_cells(one_evaluation(frame))
    return {key: cell for key, cell in found.items() if _main(key)}


def table_frame(number: int, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that a table uses, with evaluations named by their attack for Table 6, and settings
    by their hinges for Table 7."""
    if number == 6:
        return under_attacks(frame)
    chosen = one_evaluation(frame)
    return by_hinges(chosen) if number == 7 else chosen


def numbered(
    number: int, frame: pd.DataFrame, *, partial: bool = False, sure: Sure | None = None
) -> Table | None:
    """One of the paper's tables; None if the frame has nothing for it.

    sure: (cells, frame) -> the best cells whose lead is significant, which are set in bold; by
    default all best cells are.
    """
    if number == 9:
        tests = paired_tests(main_cells(frame), partial=partial)
        return tests_table(tests, "Table 9: ") if tests else None
    found = table_cells(number, frame, partial=partial)
    if not found:
        return None
    if number in DERIVED:
        over = DERIVED[number]
        rows = ("model" if over == "dataset" else "dataset", "setting")
        spec = Spec(f"means over {over}s", lambda *_: True, rows, ("strength", "metric"))
    else:
        spec = SPECS[number]
    return _lay_out(f"Table {number}: {spec.title}", found, table_frame(number, frame), spec, sure)


def _lay_out(title: str, found: Cells, frame: pd.DataFrame, spec: Spec, sure: Sure | None) -> Table:
    """Cells as a table, with violations of sanity gates marked and noted."""
    shown = {key.evaluation for key in found}
    rows = frame[frame["eval_id"].isin(shown)]
    violations = [*cell_gates(found), *row_gates(rows, found), *masking_gates(rows, found)]
    violations += constant_gates(found)
    return pivot(
        found,
        title,
        rows=spec.rows,
        columns=spec.columns,
        settings=spec.settings,
        notes=[describe_values(rows), *([_sure_note(found)] if sure else []), *notes(violations)],
        bold=sure(found, frame) if sure else None,
        marked=marked(violations),
    )


def _sure_note(found: Cells) -> str:
    if not all(cell.over_seeds for cell in found.values()):
        return "No mean is bold: Table 9 tests whether means differ"
    return (
        "Bold: the best setting of a pair, if its lead over every other is significant (95 % "
        "interval of the difference by the paired bootstrap over images excludes 0)"
    )


def _others(frame: pd.DataFrame, sure: Sure | None) -> list[Table]:
    """One table for each evaluation that is not an attack."""
    rest = frame[~frame["metric"].isin(METRICS)]
    tables = []
    for _, rows in rest.groupby("eval_id", sort=False):
        kind = rows["kind"].iloc[0]
        title = kind_of({"attack": kind}).title or "Further metrics"
        if kind in KINDS:
            tables.append(_lay_out(title, group_cells(rows), rows, AT_ALL, sure))
        else:
            columns, notes = AT_ALL.columns, [describe_values(rows)]
            found = group_cells(rows)
            bold = _best(found, rows, sure)
            tables.append(pivot(found, title, columns=columns, notes=notes, bold=bold, digits=FINE))
    return tables


def _best(found: Cells, rows: pd.DataFrame, sure: Sure | None) -> Collection[Key]:
    """The best accuracies of a user's kind. Its other metrics have no best: whether more is better
    is unknown."""
    able = {key: cell for key, cell in found.items() if key.metric == ACCURACY}
    try:
        return sure(able, rows) if sure else winners(able)
    except ConfigError:  # without accuracies per image nothing is known to be significant
        return ()


def main_tables(frame: pd.DataFrame, *, sure: Sure | None = None) -> list[Table]:
    """What a grid measured: one table for each eps_g and each norm that attacks were made in, with
    settings as rows and the best in bold; then the evaluations that are not attacks."""
    by_norm = _by_norm(frame)
    tables = []
    for norm, judged in by_norm.items():
        chosen = one_evaluation(judged)
        trained = strengths(chosen)
        shared = [text for text, n in Counter(map(str, trained)).items() if n > 1]
        for strength in trained:
            rows = at(chosen, strength)
            title = f"eps_g = {strength}" if strength else "Not attacked"
            title += f" ({NORMS[strength.norm]})" * (str(strength) in shared)
            title += f", judged by {norm}" * (len(by_norm) > 1)
            tables.append(_lay_out(title, group_cells(rows), rows, AT_ONE, sure))
    return tables + _others(frame, sure)


def _by_norm(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name of a norm -> the rows of attacks in that norm; l-inf if it is unknown."""
    rows = attacked(frame)
    norms = rows["eval_norm"].replace("", "linf")
    parts = {name: rows[norms == norm] for norm, name in NORMS.items()}
    return {norm: part for norm, part in parts.items() if len(part)}


def _trapezoid(frame: pd.DataFrame) -> str:
    """By how much the trapezoid rule differs from exact expected accuracies; '' without any."""
    gaps = (frame["trapezoid"] - frame["value"]).dropna()
    if gaps.empty:
        return ""
    ends = dict.fromkeys(f"{half_up(gap, 1):+}" for gap in (gaps.min(), gaps.max()))
    return f" (the trapezoid rule differs by {' to '.join(ends)} points)"


def describe_values(frame: pd.DataFrame) -> str:
    """What the numbers are, for a note: unit, attack, split, seeds."""
    judged = frame.loc[frame["attack"] != "", ["attack", "note", "eval_norm"]].drop_duplicates()
    splits, abouts, metrics = (
        [text for text in frame[name].unique() if text] for name in ("split", "about", "metric")
    )
    text = "Accuracy in %" if {*metrics} <= {*METRICS, CORRUPTED, ACCURACY} else "As measured"
    if splits:
        text += f" on the {' and '.join(splits)} split"
    if not {*metrics} & {*METRICS}:
        text += "".join(f"; {about}" for about in abouts)
    elif len(judged):
        named = [
            attack if note else f"{attack} ({NORMS.get(norm, NORMS['linf'])})"
            for attack, note, norm in judged.itertuples(index=False, name=None)
        ]
        text += f"; adv and expected under {' and '.join(named)}"
        text += "".join(f"; {about}" for about in abouts) + _trapezoid(frame)
    seeds = sorted(frame["seed"].dropna().unique())
    counts = sorted(set(frame.groupby(BY, sort=False)["seed"].nunique()))
    if counts[-1:] > [1]:
        span = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        text += f"; mean {PLUS_MINUS} sample standard deviation over {span} seeds"
    elif seeds:
        text += f"; one seed ({', '.join(map(str, seeds))})"
    return text

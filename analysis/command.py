"""What `sweep tables` does: numbers from a store or from CSV files, tables out, in any format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from analysis import batchnorm, tuned
from analysis.attacks import attack_frame, attack_table, overrating, summary
from analysis.cells import Cell, Key, group_cells
from analysis.choice import one_evaluation
from analysis.compare import Agreement, agreement, with_published
from analysis.derived import paired_tests
from analysis.formats import FORMATS, as_text
from analysis.gates import cell_gates, folded, row_gates, run_gates
from analysis.intervals import Flags
from analysis.margins.tables import margin_tables
from analysis.paper import DERIVED, NUMBERS, Sure, main_cells, main_tables, numbered, table_cells
from analysis.provenance import sidecar, why
from analysis.published import TABLES, load_published, read
from analysis.regret import regret_frame, regret_table
from analysis.results import Results
from analysis.tables import Table
from analysis.tidy import comma_separated, export_frame, tidy_cells, tidy_tests
from core.config import ConfigError, nearest

FORMS = (*FORMATS, "tidy")
MAIN = 0
"""Stands for the tables of what a grid measured, one per strength."""
MARGIN = -1
"""Stands for the tables of margin consistency."""
ATTACKS = -2
"""Stands for the table of runs under several attacks."""
REGRET = -3
"""Stands for the table of how far each schedule falls short of the best."""
NAMED = {"main": MAIN, "margin": MARGIN, "attacks": ATTACKS, "regret": REGRET}
"""Name -> number, for tables that have no number in the paper."""


@dataclass(frozen=True)
class Source:
    """Where numbers come from. results: None for CSV files, which have no images behind them."""

    values: pd.DataFrame
    results: Results | None = None

    @property
    def published(self) -> bool:
        """Whether the numbers are from files, for which the paper's tables are the default."""
        return not self.values["run_id"].any()

    @classmethod
    def store(cls, root: str | Path, manifest: Sequence[Mapping[str, Any]] | None = None) -> Self:
        """The runs of a manifest, or all of a store. Raises ConfigError if there are none."""
        results = Results(root, manifest)
        return cls(results.values, results)

    @classmethod
    def files(cls, paths: Sequence[str | Path]) -> Self:
        """CSV files or folders of them, with the columns of the published ones. Raises ConfigError
        for a bad file."""
        return cls(read(paths))


@dataclass(frozen=True)
class Output:
    """Tables as text. complete: whether every number asked for is there; if not, the exit code is
    3."""

    text: str
    complete: bool
    remarks: tuple[str, ...] = ()
    """Lines for stderr: violated gates, agreement with the published numbers."""
    tables: tuple[Table, ...] = ()


def tables(
    source: Source,
    form: str = "markdown",
    *,
    numbers: Sequence[int] = (),
    partial: bool = False,
    significant: bool = False,
    compare: bool = False,
) -> Output:
    """The paper's tables `numbers` from `source`. Without numbers: for a store, what its grid
    measured; for files, every table they can fill.

    form: markdown, csv, latex or tidy. partial: means over the parts that are there, with their
    count. significant: the better one is bold only if it is significantly better on the images.
    compare: ours, the published value and the difference. Raises ConfigError for options that do
    not apply to the source.
    """
    if form not in FORMS:
        raise ConfigError(f"--format: unknown format '{form}'{nearest(form, FORMS)}")
    for name in NAMED.keys() - {"main"}:
        if NAMED[name] in numbers and (compare or (form == "tidy" and len(numbers) > 1)):
            raise ConfigError(
                f"--table {name}: does not go with --compare, nor with other tables in --format "
                "tidy"
            )
    if significant and source.results is None:
        raise ConfigError("--significant: expected a GRID, as it needs the images of runs, got CSV")
    values = source.values
    if compare:
        wanted = numbers or [n for n in TABLES if table_cells(n, values)] or (1, 2)
        laid_out = {number: with_published(values, number) for number in wanted}
    else:
        laid_out = _laid_out(source, numbers, partial, significant)
    if source.results:
        for flagged in (tuned.flagged, batchnorm.flagged):
            laid_out = {number: flagged(one, source.results) for number, one in laid_out.items()}
    text = (
        _tidy(source, laid_out, numbers, partial)
        if form == "tidy"
        else as_text([*laid_out.values()], form)
    )
    return Output(
        text,
        all(table.complete for table in laid_out.values()),
        tuple(_remarks(source, laid_out)),
        tuple(laid_out.values()),
    )


def export(source: Source, path: str | Path) -> Path:
    """`--format dataframe -o PATH`: the tidy frame, one row per run and number, as .parquet or
    .csv. Raises ConfigError for another suffix."""
    return export_frame(source.values, path)


def provenance(source: Source) -> dict[str, Any]:
    """The content of the provenance file beside the tables: plain data for `json.dumps`."""
    return sidecar(source.values, _violations(source), source.results)


def explain(source: Source, question: str) -> str:
    """`sweep tables --why CELL`."""
    return why(question, source.values, source.results)


def _laid_out(
    source: Source, numbers: Sequence[int], partial: bool, significant: bool
) -> dict[int, Table]:
    """Number -> table; tables without a number in the paper get -1, -2, ..."""
    bold = _sure(source.results) if significant and source.results else None
    if not numbers and not source.published:
        numbers = (MAIN,)
    found: dict[int, Table] = {}
    for number in numbers or NUMBERS:
        if number in NAMED.values():
            made = _named(source, number, bold)
            found |= {-i: table for i, table in enumerate(made, start=1 + len(found))}
            continue
        table = numbered(number, source.values, partial=partial, sure=bold)
        if table is not None:
            found[number] = table
        elif numbers:
            raise ConfigError(f"--table {number}: no results for this table here")
    return found


def _named(source: Source, number: int, bold: Sure | None) -> list[Table]:
    made: dict[int, Callable[[], list[Table]]] = {
        MAIN: lambda: main_tables(source.values, sure=bold),
        MARGIN: lambda: _margins(source),
        REGRET: lambda: [regret_table(source.values)],
        ATTACKS: lambda: [_attacks(source)],
    }
    return made[number]()


def _attacks(source: Source) -> Table:
    """The table of --attacks. Raises ConfigError if no run was judged by two attacks."""
    made = attack_table(source.results) if source.results else None
    if made is None:
        raise ConfigError(
            "--attacks: no run here was judged by two attacks on the same images; add to evals: "
            "{attack: fmn} beside {attack: apgd-ce}"
        )
    return made


def _margins(source: Source) -> list[Table]:
    """The tables of --table margin. Raises ConfigError if no evaluation measures margins."""
    made = margin_tables(source.results.margins) if source.results else []
    if not made:
        raise ConfigError(
            "--table margin: no evaluation here measures margins; add to evals: "
            "{attack: fmn, margins: true}"
        )
    return made


def _sure(results: Results) -> Sure:
    def sure(found: Mapping[Key, Cell], frame: pd.DataFrame) -> Collection[Key]:
        if not all(cell.over_seeds for cell in found.values()):
            return ()  # not for means over datasets or models, which Table 9 tests
        return Flags(results, frame).significant(found)

    return sure


def _tidy(
    source: Source, laid_out: Mapping[int, Table], numbers: Sequence[int], partial: bool
) -> str:
    """What the tables show as tidy CSV; for the paper's tables with all digits."""
    if ATTACKS in numbers and source.results:
        return comma_separated(attack_frame(source.results))
    if REGRET in numbers:
        return comma_separated(regret_frame(source.values))
    frames = [_tidy_number(n, source.values, partial) for n in laid_out if n in NUMBERS]
    if frames:
        return comma_separated(pd.concat(frames))
    if found := _shown(laid_out.values()):
        return comma_separated(tidy_cells(found))
    return comma_separated(source.results.margins if source.results else source.values)


def _shown(laid_out: Iterable[Table]) -> dict[Key, Cell]:
    """The cells of tables, in their order."""
    entries = (entry for table in laid_out for _, line in table.rows for entry in line)
    return {entry.key: entry.cell for entry in entries if entry.key and entry.cell}


def _tidy_number(number: int, values: pd.DataFrame, partial: bool) -> pd.DataFrame:
    if number == 9:
        return tidy_tests(paired_tests(main_cells(values), partial=partial))
    return tidy_cells(table_cells(number, values, partial=partial))


def _violations(source: Source) -> list[str]:
    chosen = one_evaluation(source.values)
    found = group_cells(chosen)
    texts = [violation.text for violation in (*cell_gates(found), *row_gates(chosen, found))]
    if source.results:
        texts += run_gates(source.results)
        texts += [text for run in source.results.runs for text in overrating(run)]
    return texts


def _left_out(source: Source, laid_out: Mapping[int, Table]) -> list[str]:
    """A line with the evaluations of a grid that its tables do not show: they show one for each
    norm."""
    if any(number in NUMBERS for number in laid_out):
        return []
    shown = {key.evaluation for key in _shown(laid_out.values())}
    if not shown:
        return []
    others = source.values[~source.values["eval_id"].isin(shown)]
    names = {
        row["eval_id"]: f"{row['attack']} on {row['split']}" if row["attack"] else row["eval_id"]
        for row in others.sort_values("attack", kind="stable").to_dict("records")
    }
    ways = "see `--format dataframe -o FILE`, or `--why CELL` for one cell"
    return [f"not in these tables: {', '.join(names.values())}; {ways}"] if names else []


def _remarks(source: Source, laid_out: Mapping[int, Table]) -> list[str]:
    if source.results:
        few, uneven = tuned.sentence(source.results), batchnorm.sentence(source.results)
        found = [*folded(run_gates(source.results)), *summary(source.results.runs)]
        gates = [f"gate: {text}" for text in found]
        return [
            *gates,
            *_left_out(source, laid_out),
            *([f"few trials: {few}"] if few else []),
            *([f"batchnorm: {uneven}"] if uneven else []),
        ]
    remarks, total = [], Agreement(0, 0, 0)
    for number in laid_out:
        if number in TABLES:
            printed = table_cells(number, load_published(number))
            equal = agreement(table_cells(number, source.values), printed)
            remarks.append(f"Table {number}: {equal}")
            total += equal
        elif number in (9, *DERIVED):
            remarks.append(f"Table {number}: computed from Tables 1 and 2")
    return [*remarks, f"in all: {total}"] if len(remarks) > 1 else remarks

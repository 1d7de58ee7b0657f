"""Cells and layout: means over seeds, bold, what is missing, the output formats."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import analysis_store as made
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from analysis import Results, load
from analysis.cells import group_cells
from analysis.command import Source
from analysis.command import tables as write
from analysis.findings import delay_table, finding, gaps
from analysis.formats import escape, latex, markdown, terminal
from analysis.paper import main_tables
from analysis.published import load_published
from analysis.rounding import half_up
from analysis.tables import Entry, Table
from analysis.tidy import tidy_cells
from core.config import ConfigError


@given(st.integers(0, 10**7), st.integers(1, 3000))
def test_rounding_is_half_up_of_the_exact_quotient(part: int, whole: int) -> None:
    exact = Fraction(part, whole)
    expected = Fraction((2 * exact * 100 + 1).__floor__() // 2, 100)
    assert Fraction(half_up(part / whole)) == expected


@pytest.mark.parametrize(
    ("value", "shown"), [(2.675, "2.68"), (0.125, "0.13"), (-0.125, "-0.13"), (1e-9, "0.00")]
)
def test_ties_go_away_from_zero(value: float, shown: str) -> None:
    assert str(half_up(value)) == shown


def test_sums_of_floats_do_not_lose_a_tie() -> None:
    values = [44.86, 44.87, 44.86, 44.87]
    assert half_up(sum(values) / 4) == Decimal("44.87")  # 44.865 exactly


def tables(frame: pd.DataFrame, form: str = "markdown") -> tuple[str, bool]:
    output = write(Source(frame), form)
    return output.text, output.complete


def numbers(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {labels: [entry.text for entry in row] for labels, row in table.rows}


def test_layout_is_the_papers(tmp_path: Path) -> None:
    runs = made.grid(("swin", "vit"), ("cars", "aircraft"))
    first, second = main_tables(load(tmp_path, made.fill(tmp_path, runs)))
    assert (first.title, second.title) == ("eps_g = 4/255", "eps_g = 8/255")
    assert [labels for labels, _ in first.rows] == [
        (model, setting) for model in ("ViT", "SWIN") for setting in ("standard", "fix", "sched")
    ]
    assert first.header[0] == ("Aircraft (n = 512)", "clean")
    assert [levels[1] for levels in first.header] == ["clean", "adv", "expected"] * 2
    assert first.complete and second.complete


def test_the_better_of_a_pair_is_bold_and_standard_does_not_compete(tmp_path: Path) -> None:
    (table,) = main_tables(load(tmp_path, made.fill(tmp_path, made.grid(epsilons=("4/255",)))))
    for labels, row in table.rows:
        assert all(entry.bold == (labels[1] == "sched") for entry in row)


def test_equal_as_printed_is_bold_twice(tmp_path: Path) -> None:
    critical = made.flags(made.config(schedule="fix"))
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("fix", "sched"))
    for run in runs:
        made.finish(tmp_path, run, critical=critical)
    (table,) = main_tables(load(tmp_path, made.manifest(tmp_path, runs)))
    assert all(entry.bold for _, row in table.rows for entry in row)


def test_seeds_give_mean_and_sample_deviation(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("fix",), seeds=(0, 1, 2))
    frame = load(tmp_path, made.fill(tmp_path, runs))
    (table,) = main_tables(frame)
    clean = frame.loc[frame["metric"] == "clean", "value"]
    shown = numbers(table)["ViT", "fix"][0]
    assert shown == f"{half_up(clean.mean())} \N{PLUS-MINUS SIGN} {half_up(clean.std(ddof=1))}"
    assert "3 seeds" in table.notes[0]


def test_missing_cells_are_shown_noted_and_never_averaged_away(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars", "aircraft"), ("4/255",), ("fix", "sched"), seeds=(0, 1))
    made.fill(tmp_path, runs)
    gone, broken = runs[0], runs[-1]
    (tmp_path / "runs" / gone.id / "result.json").unlink()
    made.attempt(made.start(tmp_path, gone), outcome="failed", reason="out of memory")
    (tmp_path / "runs" / broken.id / "evals" / f"{made.EVALUATION.id}.json").unlink()
    frame = load(tmp_path, made.manifest(tmp_path, runs))
    text, complete = tables(frame)
    assert not complete
    (table,) = main_tables(frame)
    entries = {(labels[1], i): e for labels, row in table.rows for i, e in enumerate(row)}
    for i, entry in ((i, entries["fix", i]) for i in range(3, 6)):
        assert entry.mark and not entry.bold, i
        assert entry.cell is not None and (entry.cell.measured, entry.cell.asked) == (1, 2)
    notes = " / ".join(table.notes)
    assert "1 of 2 seeds, failed (out of memory): ViT/Cars/fix at 4/255" in notes
    assert "ViT/Aircraft/sched" in notes
    assert not any(e.bold for e in entries.values()), "no pair is complete"
    values = tidy_cells(group_cells(frame))
    assert set(values["seeds"]) == {1, 2} and set(values["state"]) == {
        "done",
        "failed (1 of 2 seeds)",
        "missing (1 of 2 seeds)",
    }
    assert "out of memory" in text


def test_a_cell_with_nothing_measured_shows_its_state(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("fix", "sched"))
    made.finish(tmp_path, runs[0])
    (table,) = main_tables(load(tmp_path, made.manifest(tmp_path, runs)))
    assert numbers(table)["ViT", "sched"] == ["missing"] * 3
    assert not table.complete


def test_what_the_grid_does_not_ask_for_is_a_dash_and_complete(tmp_path: Path) -> None:
    runs = [
        *made.grid(("vit",), ("cars",), ("4/255",)),
        *made.grid(("swin",), ("dogs",), ("4/255",)),
    ]
    (table,) = main_tables(load(tmp_path, made.fill(tmp_path, runs)))
    assert numbers(table)["ViT", "fix"][3:] == ["\N{EN DASH}"] * 3
    assert table.complete


def test_seeds_on_different_counts_of_images_are_not_one_number(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("fix",), seeds=(0, 1))
    for run, n in zip(runs, (512, 500), strict=True):
        made.finish(tmp_path, run, critical=made.flags(run, n))
    (table,) = main_tables(load(tmp_path, made.manifest(tmp_path, runs)))
    assert not table.complete
    assert "different numbers of images (500 to 512)" in table.notes[-1]
    assert table.header[0][0] == "Cars (n = 500 to 512)"


def test_variants_are_separate_rows(tmp_path: Path) -> None:
    runs = [
        made.config(schedule=schedule, optim={"lr": lr})
        for lr in (1e-3, 1e-4)
        for schedule in ("fix", "sched")
    ]
    (table,) = main_tables(load(tmp_path, made.fill(tmp_path, runs)))
    assert table.stub == ("Model", "Variant", "Setting")
    assert len(table.rows) == 4
    assert all(entry.cell and entry.cell.asked == 1 for _, row in table.rows for entry in row)


def test_tidy_has_the_published_columns_and_round_trips(tmp_path: Path) -> None:
    frame = load(tmp_path, made.fill(tmp_path, made.grid(seeds=(0, 1))))
    text, complete = tables(frame, "tidy")
    assert complete
    back = pd.read_csv(io.StringIO(text))
    head = ["model", "dataset", "epsilon_g", "setting", "metric", "value", "n", "seeds"]
    assert list(back.columns[:8]) == head
    assert set(back["epsilon_g"]) == {4, 8} and set(back["n"]) == {512}
    assert len(back) == 2 * 2 * 2 * 3 * 3


def test_csv_reads_back_as_printed(tmp_path: Path) -> None:
    frame = load(tmp_path, made.fill(tmp_path, made.grid(epsilons=("4/255",))))
    text, _ = tables(frame, "csv")
    rows = list(csv.reader(io.StringIO(text)))
    (table,) = main_tables(frame)
    assert [row[2:] for row in rows[1:]] == [[e.text for e in row] for _, row in table.rows]


def test_several_tables_are_told_apart_in_every_format(tmp_path: Path) -> None:
    frame = load(tmp_path, made.fill(tmp_path, made.grid()))
    titles = [table.title for table in main_tables(frame)]
    assert len(set(titles)) == 2
    text, _ = tables(frame, "csv")
    found = [row[0] for row in csv.reader(io.StringIO(text)) if len(row) == 1]
    assert found == titles


def test_markdown_is_one_table_per_strength(tmp_path: Path) -> None:
    text, _ = tables(load(tmp_path, made.fill(tmp_path, made.grid())))
    lines = text.splitlines()
    pipes = [line.count("|") for line in lines if line.startswith("|")]
    assert set(pipes) == {2 + 6 + 1} and len(pipes) == 2 * (2 + 6)


@given(st.text(alphabet="ab_%&#{}$~^\\|<>\N{PLUS-MINUS SIGN}", max_size=20))
def test_latex_escape_leaves_no_active_character(text: str) -> None:
    escaped = escape(text)
    for name in ("backslash", "asciitilde", "asciicircum", "bar"):
        escaped = escaped.replace(f"\\text{name}{{}}", "")
    for known in (r"$\pm$", "$<$", "$>$"):
        escaped = escaped.replace(known, "")
    for char in "%&#_${}":
        escaped = escaped.replace("\\" + char, "")
    assert not set(escaped) & set("%&#_${}~^\\|<>")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    runs = made.grid(("mini_convnext", "swin"), ("glyph", "cars"), seeds=(0, 1))
    made.fill(tmp_path, runs)
    (tmp_path / "runs" / runs[0].id / "result.json").unlink()
    results = Results(tmp_path, made.manifest(tmp_path, runs))
    ours = [*main_tables(results.values), delay_table(results)]
    papers = write(Source(load_published())).tables
    body = "\n".join(map(latex, [*ours, *papers]))
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_every_number_reaches_the_terminal(tmp_path: Path) -> None:
    results = Results(tmp_path, made.fill(tmp_path, made.grid()))
    console = Console(width=120, file=io.StringIO())
    for table in (*main_tables(results.values), delay_table(results)):
        console.print(terminal(table))
        shown = console.file.getvalue()
        assert all(entry.text in shown for _, row in table.rows for entry in row)


def test_the_terminal_shows_marks_as_text(tmp_path: Path) -> None:
    entry = Entry("[bold]45[/bold]")
    table = Table("t", ("Model",), (("clean",),), ((("[red]",), (entry,)),))
    console = Console(width=80, file=io.StringIO())
    console.print(terminal(table))
    assert "[bold]45[/bold]" in console.file.getvalue()
    assert "[red]" in console.file.getvalue()


def test_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'markdown'"):
        tables(pd.DataFrame(), "markdwn")


def test_finding_is_computed(tmp_path: Path) -> None:
    results = Results(tmp_path, made.fill(tmp_path, made.grid()))
    sentence = finding(results)
    assert sentence.startswith("Suboptimal transfer shows") and "4 of 4" in sentence
    assert "fix never adapts in 4 of 4 runs, sched adapts after 0 epochs in the median" in sentence
    for gap in gaps(results.values):
        assert gap.pairs == len(gap.clean) == len(gap.expected) == 4


def test_finding_denies_what_is_not_there(tmp_path: Path) -> None:
    runs = made.grid(schedules=("fix", "sched"))
    for run in runs:
        made.finish(tmp_path, run, critical=made.flags(runs[0]))
    sentence = finding(Results(tmp_path, made.manifest(tmp_path, runs)))
    assert sentence.startswith("No suboptimal transfer here") and "0 of 4" in sentence


def test_finding_waits_for_a_complete_pair(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("fix", "sched"))
    made.finish(tmp_path, runs[0])
    results = Results(tmp_path, made.manifest(tmp_path, runs))
    assert finding(results).startswith("Nothing to compare yet")


def test_markdown_escapes_pipes() -> None:
    table = Table("t", ("a|b",), (("c",),), ((("x|y",), (Entry("1"),)),))
    assert "x\\|y" in markdown(table)

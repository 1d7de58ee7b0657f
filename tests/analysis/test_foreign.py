"""Names and reasons come from outside: no format takes them for formulas, markup or commands."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import analysis_store as made
import pandas as pd
import pytest

from analysis.command import Source, tables
from analysis.formats import comma_separated, escape, latex, markdown, unformulated
from analysis.tables import Entry, Table
from analysis.tidy import export_frame

EVIL = "=cmd|' /C calc'!A0"


def table(label: str, *entries: str, notes: tuple[str, ...] = ()) -> Table:
    row = ((label,), tuple(map(Entry, entries)))
    return Table(label, ("Model",), tuple(("x",) for _ in entries), (row,), notes)


@pytest.mark.parametrize("text", [EVIL, "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", " =1", "--", "=1"])
def test_text_is_no_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(comma_separated(table(text, text)), newline="")))
    assert rows[1] == [f"'{text}"] * 2


def test_a_carriage_return_ends_no_row() -> None:
    assert comma_separated(table("a\r=1", "\r=1")) == "Model,x\na =1,' =1\n"


@pytest.mark.parametrize(
    "text",
    [
        *("-1.20", "+0.50", "45.12", "-3", "-1e-05", "-3.20\N{DAGGER}\N{DOUBLE DAGGER}"),
        *("-1.20 \N{PLUS-MINUS SIGN} 0.31", "-1.20 (1/2)", "vit", "", "\N{EN DASH}", "4/255"),
    ],
)
def test_numbers_stay_numbers(text: str) -> None:
    assert unformulated(text) == text


def test_exports_hold_no_formula(tmp_path: Path) -> None:
    frame = pd.DataFrame({"reason": [EVIL, None, "fine"], "value": [-1.5, 2.0, float("nan")]})
    text = export_frame(frame, tmp_path / "a.csv").read_text()
    assert text == f'reason,value\n"\'{EVIL}",-1.5\n,2.0\nfine,\n'.replace("\"'=", "'=").replace(
        'A0"', "A0"
    )
    run = made.config(dataset="/data/=evil", schedule="fix", epsilon_g="8/255")
    made.finish(tmp_path, run)
    source = Source.store(tmp_path, made.manifest(tmp_path, [run]))
    for form in ("csv", "tidy"):
        text = tables(source, form).text
        assert "'=evil" in text and not any(line.startswith("=") for line in text.splitlines())


def test_markdown_shows_names_as_they_are() -> None:
    text = markdown(table("<img src=x onerror=alert(1)>", "a|b\\|c\nd", notes=("<script>&",)))
    assert "<img" not in text and "<script" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text and "- &lt;script&gt;&amp;" in text
    (row,) = [line for line in text.splitlines() if "a\\|b" in line]
    assert row.endswith(r"| a\|b\\\|c d |")


def test_latex_takes_no_name_for_an_argument() -> None:
    assert escape("[2pt]* a|b\nc") == r"{[}2pt{]}{*} a\textbar{}b c"
    assert escape(r"50% of $x_1 & \y {z} ~^#") == (
        r"50\% of \$x\_1 \& \textbackslash{}y \{z\} \textasciitilde{}\textasciicircum{}\#"
    )
    lines = latex(table("[2pt]", "*1")).splitlines()
    assert "{[}2pt{]} & {*}1 \\\\" in lines

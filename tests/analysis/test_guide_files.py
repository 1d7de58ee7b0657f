"""The sister benchmark from files: their faults and gaps, every table in every format, figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from guide_files import FFT, LP, small

from analysis.guide import command
from analysis.guide.command import Measured, tables
from analysis.guide.design import our_names
from analysis.guide.figures import CAPTIONS, FIGURES
from analysis.guide.measurements import COLUMNS, KEYS
from sweep.cli import guide

Call = Callable[..., tuple[int, str, str]]


def test_the_shape_of_the_tidy_ranking_is_fixed(call: Call, tmp_path: Path) -> None:
    path = small(tmp_path / "g.csv")
    for words in (["tables", "--from", path], ["tables", "guide", "--from", path]):
        code, out, _ = call(*words, "--table", "ranking", "--format", "tidy")
        rows = [*csv.DictReader(io.StringIO(out))]
        assert [*rows[0]][:5] == ["protocol", "backbone", "loss", "borda", "rank"]
        done = [row for row in rows if row["borda"]]
        assert len(done) == (4 if len(words) == 3 else 0)
    assert code == 3 and len(rows) == 240  # a grid asks for all of its cells


def test_every_table_in_every_format(tmp_path: Path) -> None:
    source = Measured.files([small(tmp_path / "g.csv")])
    for form in ("markdown", "latex", "csv"):
        output = tables(source, form, names=() if form == "markdown" else ["ranking", "top"])
        assert output.complete and not output.remarks
        assert "nan" not in output.text.lower().split()
    for name in guide.TABLES:
        text = tables(source, "tidy", names=[name]).text
        assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
    compared = tables(Measured.shipped(), names=["ranking"], compare=True)
    (row,) = [r for r in compared.tables[0].rows if r[0][0] == "convnext_base.fb_in22k"][:1]
    assert [entry.text for entry in row[1]][:3] == ["1", "1", "0"]


@pytest.mark.parametrize("accuracy", ["0.5", "0", "0.1 or 0.9"])
def test_little_and_equal_numbers_make_no_noise(tmp_path: Path, accuracy: str) -> None:
    """Warnings are errors here: of values that do not vary, of groups of one, of gaps."""
    names = [name for name in our_names() if name.startswith("robust_")]
    values = accuracy.split(" or ")

    def rewrite(rows: list[dict[str, Any]]) -> None:
        cells = product([FFT, LP], names, ["Classic AT", "TRADES"], ["stanford_cars", "pets"])
        rows[:] = [
            {
                **dict(zip(KEYS, cell, strict=True)),
                **dict.fromkeys(COLUMNS, values[i // 4 % len(values)]),
            }
            for i, cell in enumerate(cells)
            if i != 5
        ]

    source = Measured.files([small(tmp_path / "g.csv", rewrite)])
    output = tables(source)
    assert not output.complete and len(output.tables) == 20
    assert "not in the source" in output.remarks[0]
    assert command.check(source).text.startswith("## Accuracies of a part")


def changed(line: int, **cells: object) -> Callable[[list[dict[str, Any]]], object]:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row |= dict.fromkeys({*cells} - {*row}, "")
        rows[line].update(cells)

    return change


BROKEN: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "column": (
        lambda rows: [row.pop("L1_acc") for row in rows],
        "missing column L1_acc (expected ft_strategy,backbone,loss_function,dataset,clean_acc,",
    ),
    "backbone": (
        changed(0, backbone="resnet50.a1_in1"),
        "g.csv:2: unknown backbone 'resnet50.a1_in1', did you mean 'resnet50.a1_in1k'?",
    ),
    "percent": (
        changed(1, L2_acc=45.5),
        "g.csv:3: L2_acc: expected a fraction in [0, 1], got percent ('45.5')",
    ),
    "sum": (changed(0, sum=0.6), "g.csv:2: sum: expected 0.5, the sum of its five accuracies, got"),
    "text": (changed(1, L2_acc="x"), "g.csv:3: L2_acc: expected a fraction in [0, 1], got 'x'"),
    "twice": (lambda rows: rows.append(rows[0]), "stanford_cars is already in g.csv:2"),
    "loss": (
        changed(2, loss_function="TRADE"),
        "g.csv:4: unknown loss_function 'TRADE', did you mean 'TRADES'?",
    ),
    "dataset": (changed(2, dataset="car"), "g.csv:4: unknown dataset 'car' (known: caltech101, "),
    "protocol": (
        changed(2, ft_strategy="FFT (50 epoch)"),
        "g.csv:4: unknown ft_strategy 'FFT (50 epoch)', did you mean 'FFT (50 epochs)'?",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_files_are_refused_in_one_line(call: Call, tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    path = small(tmp_path / "g.csv", change)
    code, out, err = call("tables", "--from", path, "--table", "ranking")
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_what_is_missing_is_shown(call: Call, tmp_path: Path) -> None:
    def fewer(rows: list[dict[str, Any]]) -> None:
        rows.pop()
        rows[0]["L1_acc"] = ""

    path = small(tmp_path / "g.csv", fewer)
    code, out, err = call("tables", "--from", path, "--table", "ranking", "--format", "tidy")
    assert code == 3
    assert "LP (50 epochs)/vit_base_patch16_224.mae/TRADES/flowers-102" in err
    assert "no l1 in g.csv:2" in err
    rows = [*csv.DictReader(io.StringIO(out))]
    # Of the two that have everything one has the better numbers throughout.
    assert [row["rank"] for row in rows] == ["1.0", "2.0", "", ""] or [
        row["rank"] for row in rows
    ] == ["1", "2", "", ""]
    assert [row["state"] for row in rows][2:] == ["1 of 2 datasets"] * 2
    code, out, _ = call("tables", "--from", path, "--table", "ranking")
    assert code == 3 and out.count("\N{EN DASH}\N{DAGGER}") == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--table", "rankin"], "got 'rankin'; of the Guide's, did you mean 'ranking'?"),
        (["--check", "--table", "top"], "--check: takes none of these: --table"),
        (["--table", "medals", "--compare"], "--table: no published counterpart of 'medals'"),
        (["--format", "tidy"], "--format tidy: expected one --table of ranking, "),
        (["--partial"], "--partial, --significant: do not apply to the Guide's tables"),
    ],
)
def test_options_that_do_not_fit(
    call: Call, tmp_path: Path, words: list[str], message: str
) -> None:
    file = small(tmp_path / "g.csv")
    for grid in ((), ("guide",)):
        code, _, err = call("tables", *grid, "--from", file, *words)
        assert code == 2 and message in err and err.count("\n") == 1


def test_the_names_on_the_command_line_are_those_of_the_analyses() -> None:
    from analysis.guide.tables import ANALYSES

    assert tuple(ANALYSES) == guide.TABLES
    assert (*FIGURES,) == guide.FIGURES and {*CAPTIONS} == {*FIGURES}


def test_figures_show_what_tables_do(call: Call, tmp_path: Path) -> None:
    path = small(tmp_path / "g.csv")
    code, out, _ = call("figures", "--from", path, "-o", str(tmp_path / "out"))
    assert code == 0
    # One protocol: nothing to be a proxy of; and no full fine-tuning whose levels to show.
    drawn = sorted(file.name for file in (tmp_path / "out").glob("*.png"))
    assert drawn == ["guide_heatmap.png", "guide_plane.png", "guide_radar.png"]
    assert len(out.splitlines()) == 6
    code, _, err = call("figures", "--from", path, "--figure", "radr", "-o", str(tmp_path))
    assert code == 2 and err == "--figure: unknown figure 'radr', did you mean 'radar'?\n"

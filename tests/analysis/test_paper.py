"""The paper's tables from published numbers: layout, derived tables, agreement, the checker."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.cells import Cell, Key
from analysis.check import check_published, claims, disagreements, impossible, missing
from analysis.command import Source, tables
from analysis.paper import NUMBERS, numbered, table_cells
from analysis.published import TABLES, backbones, load_published, read
from analysis.tables import Table
from core.config import ConfigError

FOLDER = resources.files("analysis").joinpath("published")
HEADER = "model,dataset,epsilon_g,setting,metric,value\n"


def lines(number: int) -> list[dict[str, str]]:
    text = FOLDER.joinpath(f"table{number}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def files() -> Source:
    return Source.files([str(FOLDER)])


def shown(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {labels: [entry.text for entry in row] for labels, row in table.rows}


@pytest.mark.parametrize("number", TABLES)
def test_every_printed_number_comes_out_as_printed(number: int) -> None:
    printed = sorted(f"{float(line['value']):.2f}" for line in lines(number) if line["value"])
    table = numbered(number, load_published(number))
    assert table is not None
    out = [entry.text for _, row in table.rows for entry in row if entry.text != "missing"]
    assert sorted(out) == printed
    assert table.complete == all(line["value"] for line in lines(number))


def test_merging_all_files_keeps_every_table() -> None:
    output = tables(files())
    equal = {remark.split(":")[0]: remark.split(": ")[1] for remark in output.remarks}
    for number in TABLES:
        there = sum(bool(line["value"]) for line in lines(number))
        assert equal[f"Table {number}"].startswith(f"{there} of {there} numbers equal")
    assert [table.title.split(":")[0] for table in output.tables] == [
        f"Table {number}" for number in NUMBERS
    ]
    everything = sum(bool(line["value"]) for number in TABLES for line in lines(number))
    assert equal["in all"].startswith(f"{everything} of {everything} numbers equal")
    assert not output.complete  # the source lacks cells of Tables 3, 4 and 8


def test_one_command_compares_every_table() -> None:
    output = tables(files(), compare=True)
    assert [table.title.split(":")[0] for table in output.tables] == [
        f"Table {number}" for number in TABLES
    ]
    everything = sum(bool(line["value"]) for number in TABLES for line in lines(number))
    assert output.remarks[-1].startswith(f"in all: {everything} of {everything} numbers equal")


def test_main_table_has_the_papers_rows_and_columns() -> None:
    table = numbered(1, load_published())
    assert table is not None and table.complete
    models = ("ViT", "SWIN", "CNX", "R50", "ClipViT", "ClipCNX")
    assert [labels for labels, _ in table.rows] == [
        (model, setting) for model in models for setting in ("fix", "sched")
    ]
    datasets = ("Aircraft", "Caltech", "Cars", "Cub", "Dogs")
    assert [header[0] for header in table.header[::3]] == list(datasets)
    assert shown(table)["SWIN", "sched"][:3] == ["73.80", "32.00", "53.75"]


def test_settings_stand_in_the_papers_order() -> None:
    four, eight = numbered(4, load_published()), numbered(8, load_published())
    assert four is not None and eight is not None
    assert [labels[1] for labels, _ in four.rows[:3]] == ["fix", "sched", "auto"]
    assert [labels[1] for labels, _ in eight.rows[:3]] == ["fix", "uniform", "sched"]


def test_table_six_keeps_attacks_apart() -> None:
    table = numbered(6, load_published())
    assert table is not None
    rows = shown(table)
    assert rows["4/255", "SWIN", "APGD", "fix"][3:] == ["60.20", "31.90", "45.89"]
    assert rows["4/255", "SWIN", "AutoAttack", "sched"][:2] == ["73.80", "31.40"]
    assert numbered(6, load_published(1)) is None


def test_table_seven_lists_its_own_fix_and_orders_hinges_as_numbers() -> None:
    table = numbered(7, load_published())
    assert table is not None
    labels = [labels[2] for labels, _ in table.rows]
    assert labels[:4] == ["T1=0;T2=0", "T1=0;T2=12", "T1=0;T2=30", "T1=0;T2=50"]
    assert labels[4:6] == ["T1=5;T2=5", "T1=5;T2=12"] and len(labels) == 15
    assert shown(table)["SWIN", "Cars", "T1=0;T2=0"][:2] == ["60.20", "31.90"]


def test_means_are_exact_and_half_up() -> None:
    values: dict[tuple[str, ...], list[Decimal]] = {}
    for number in (1, 2):
        for line in lines(number):
            key = (line["model"], line["setting"], line["epsilon_g"], line["metric"])
            values.setdefault(key, []).append(Decimal(line["value"]))
    table = numbered(10, load_published())
    assert table is not None
    cent = Decimal("0.01")
    for labels, row in table.rows:
        for (strength, metric), entry in zip(table.header, row, strict=True):
            five = values[(*labels, strength.removesuffix("/255"), metric)]
            assert len(five) == 5
            assert Decimal(entry.text) == (sum(five) / 5).quantize(cent, ROUND_HALF_UP)


def test_means_over_models_average_six() -> None:
    table = numbered(11, load_published())
    assert table is not None
    column = [float(d["value"]) for d in lines(2) if _is(d, "Dogs", "fix", "adv")]
    assert len(column) == 6
    assert shown(table)["Dogs", "fix"][4] == f"{np.mean(column):.2f}"


def _is(line: Mapping[str, str], dataset: str, setting: str, metric: str) -> bool:
    return (line["dataset"], line["setting"], line["metric"]) == (dataset, setting, metric)


def test_paired_tests_are_scipys_over_thirty_pairs() -> None:
    frame = pd.read_csv(io.StringIO(FOLDER.joinpath("table2.csv").read_text("utf-8")))
    wide = frame[frame["metric"] == "adv"].pivot(
        index=["model", "dataset"], columns="setting", values="value"
    )
    expected = stats.ttest_rel(wide["sched"], wide["fix"])
    text = tables(files(), "tidy", numbers=[9]).text
    found = pd.read_csv(io.StringIO(text)).set_index(["epsilon_g", "metric", "statistic"])
    assert found.loc[(8, "adv", "t"), "value"] == pytest.approx(expected.statistic, rel=1e-12)
    assert found.loc[(8, "adv", "p"), "value"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert set(found["n"]) == {30}
    gap = wide["sched"] - wide["fix"]
    effect = found.loc[(8, "adv", "effect"), "value"]
    assert effect == pytest.approx(gap.mean() / gap.std(ddof=1))
    wilcoxon = stats.wilcoxon(wide["sched"], wide["fix"])
    assert found.loc[(8, "adv", "wilcoxon_p"), "value"] == pytest.approx(wilcoxon.pvalue)


def without(path: Path, number: int, gap: tuple[str, ...]) -> Source:
    """The table with the value of one cell taken out."""
    rows = lines(number)
    for line in rows:
        if tuple(list(line.values())[:5]) == gap:
            line["value"] = ""
    body = "\n".join(",".join(list(line.values())[:6]) for line in rows)
    file = path / f"table{number}.csv"
    file.write_text(HEADER + body + "\n")
    return Source.files([file])


def test_means_and_tests_refuse_gaps_unless_partial(tmp_path: Path) -> None:
    source = without(tmp_path, 1, ("ViT", "Cars", "4", "fix", "clean"))
    ten = tables(source, numbers=[10])
    assert not ten.complete
    assert "| ViT | fix | incomplete" in ten.text and "4 of 5 datasets" in ten.text
    some = tables(source, numbers=[10], partial=True)
    assert not some.complete and "(4/5)" in some.text
    nine = tables(source, numbers=[9])
    assert "incomplete" in nine.text and not nine.complete
    fewer = tables(source, numbers=[9], partial=True)
    assert "29/30" in fewer.text and "ViT/Cars" in fewer.text


def test_a_grid_that_is_not_full_has_no_whole_mean(tmp_path: Path) -> None:
    rows = [line for line in lines(1) if (line["model"], line["dataset"]) != ("CNX", "Dogs")]
    file = tmp_path / "some.csv"
    file.write_text(HEADER + "\n".join(",".join(line.values()) for line in rows) + "\n")
    found = table_cells(10, read([file]))
    assert all(cell.complete == (key.model != "CNX") for key, cell in found.items())


def test_checker_finds_exactly_what_is_known() -> None:
    found = disagreements()
    assert len(found) == 5 and all(line.startswith("SWIN/Cars/fix") for line in found)
    assert "adv: 29.70 (Tables 1, 4, 8), 31.90 (Tables 6, 7)" in found[0]
    assert len(missing()) == sum(not line["value"] for n in TABLES for line in lines(n))
    contradictions = impossible(load_published())
    assert len(contradictions) == 3
    assert "CNX/Aircraft/fix at 8/255: adv (1.50) above expected (1.48)" in contradictions
    text = check_published()
    assert "fix better in 9 of 30" in text  # adv at 4/255
    assert text.count("##") == 4


def test_checker_sees_a_made_up_contradiction(tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text(
        HEADER
        + "SWIN,Cars,4,fix,clean,60.20\nSWIN,Cars,4,fix,adv,29.70\nSWIN,Cars,4,fix,expected,59.90\n"
    )
    (text,) = impossible(read([file]))
    assert "outside [33.51, 56.39]" in text


def test_claims_count_pairs() -> None:
    counted = claims(load_published())
    assert len(counted) == 6 and all("of 30" in line for line in counted)


def test_backbones_are_listed() -> None:
    assert [line["shorthand"] for line in backbones()][:2] == ["ViT", "SWIN"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,dataset,value\nSWIN,Cars,3\n", "missing columns epsilon_g, setting, metric"),
        ("", "missing columns"),
        (HEADER, "no numbers"),
        (HEADER + "SWINN,Cars,4,fix,clean,60.2\n", "unknown model 'SWINN', did you mean 'SWIN'"),
        (HEADER + "SWIN,Cars,4,fix,cleen,60.2\n", "unknown metric 'cleen', did you mean 'clean'"),
        (HEADER + "SWIN,Cars,four,fix,clean,60.2\n", "epsilon_g: expected 255ths"),
        (HEADER + "SWIN,Cars,4,fix,clean,abc\n", "expected percent in [0, 100], got 'abc'"),
        (HEADER + "SWIN,Cars,4,fix,clean,nan\n", "expected percent"),
        (HEADER + "SWIN,Cars,4,fix,clean,602\n", "expected percent in [0, 100], got '602'"),
        (HEADER + "SWIN,Cars,4,fix,clean,0.602\nSWIN,Cars,4,fix,adv,0.297\n", "fractions"),
        (
            HEADER + "SWIN,Cars,4,fix,clean,0.602\nSWIN,Cars,4,fix,adv,29.7\n",
            "clean = 0.602 beside adv = 29.7",
        ),
        (
            HEADER + "SWIN,Cars,4,fix,clean,60.2\nSWIN,Cars,4,fix,clean,61.0\n",
            "SWIN/Cars/fix/clean at 4/255 is 61.0, but 60.2 in f.csv:2",
        ),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "f.csv"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read([file])
    assert said in str(caught.value) and len(caught.value.lines) == 1
    assert "f.csv" in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read([tmp_path / "nowhere.csv"])
    with pytest.raises(ConfigError, match="no CSV files"):
        read([tmp_path])


def test_small_percentages_are_not_taken_for_fractions(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text(
        HEADER
        + "SWIN,Cars,4,fix,clean,0.80\nSWIN,Cars,4,fix,adv,0.80\nSWIN,Cars,4,fix,expected,0.80\n"
        + "SWIN,Cars,4,sched,clean,84.70\nSWIN,Cars,4,sched,adv,0.50\n"
    )
    assert len(read([file])) == 5


def test_the_same_value_twice_is_no_conflict(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    row = "SWIN,Cars,4,fix,clean,60.20\n"
    file.write_text(HEADER + row + row.replace("60.20", "60.2"))
    assert len(read([file])) == 1


def test_shorthands_and_strengths_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text(HEADER + "swin,caltech256,4/255,fix,clean,60.20\n")
    (row,) = read([file]).to_dict("records")
    assert (row["model"], row["dataset"], row["epsilon_g"]) == ("SWIN", "Caltech", 4.0)


def test_our_own_tidy_output_reads_back(tmp_path: Path) -> None:
    source = files()
    text = tables(source, "tidy", numbers=[1]).text
    file = tmp_path / "again.csv"
    file.write_text(text)
    again = table_cells(1, read([file]))
    first = table_cells(1, source.values)
    assert {k: c.value for k, c in again.items()} == {k: c.value for k, c in first.items()}


def test_a_table_without_results_is_refused() -> None:
    source = Source.files([str(FOLDER.joinpath("table1.csv"))])
    with pytest.raises(ConfigError, match="--table 8: no results"):
        tables(source, numbers=[8])
    with pytest.raises(ConfigError, match="no Table 5"):
        tables(source, numbers=[5])
    with pytest.raises(ConfigError, match="--significant"):
        tables(source, significant=True)


def test_cells_of_a_table_are_keyed_by_the_paper(tmp_path: Path) -> None:
    found = table_cells(12, load_published())
    key = Key("", "", "CNX", "ImageNette", 8.0, "sched", "expected")
    assert isinstance(found[key], Cell) and found[key].value == 89.03

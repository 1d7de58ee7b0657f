"""The sister benchmark: the published file and runs in one frame, its rankings, tests and audit."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from guide_runs import finished
from report_page import unpacked
from scipy import stats

from analysis import Results
from analysis.guide import command, correlations, effects
from analysis.guide.command import Measured, tables
from analysis.guide.design import (
    CELL,
    METRICS,
    SIZES,
    all_cells,
    facts,
    our_names,
    published_name,
)
from analysis.guide.figures import CAPTIONS, FIGURES, levels, proxies
from analysis.guide.letters import mark
from analysis.guide.measurements import COLUMNS, KEYS, published
from analysis.guide.own import of_runs
from analysis.guide.ranking import best, medals, rank
from analysis.report import Digests, write
from core.config.registry import backbone_problem
from sweep.cli import guide

HEADER = [*KEYS, *COLUMNS]
FFT, LP = "FFT (50 epochs)", "LP (50 epochs)"
Call = Callable[..., tuple[object, str, str]]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return published()


def small(path: Path, change: Callable[[list[dict[str, Any]]], object] = lambda rows: None) -> str:
    """A file in the published shape: 2 backbones x 2 losses x 2 datasets, linear probes."""
    names = "resnet50.a1_in1k", "vit_base_patch16_224.mae"
    cells = product([LP], names, ["Classic AT", "TRADES"], ["stanford_cars", "flowers-102"])
    rows: list[dict[str, Any]] = [
        {**dict(zip(KEYS, cell, strict=True)), **dict.fromkeys(COLUMNS, (i + 1) / 10)}
        for i, cell in enumerate(cells)
    ]
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_the_published_benchmark_is_whole(frame: pd.DataFrame) -> None:
    cells = [*frame[CELL].itertuples(index=False, name=None)]
    assert len(cells) == 1440 and {*cells} == {*all_cells()}
    assert (frame["state"] == "done").all()
    counts = frame.drop_duplicates("backbone")["size"].value_counts()
    assert [counts[size] for size in SIZES] == [18, 15, 7]
    for name in frame["backbone"].unique():
        ours = our_names()[name]
        assert backbone_problem(ours) is None and published_name(ours) == name


def test_borda_counts_are_those_of_a_plain_loop(frame: pd.DataFrame) -> None:
    """Points: one more than the configurations that are strictly worse."""
    rows = frame[frame["protocol"] == LP].to_dict("records")
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for row, metric in product(rows, METRICS):
        rivals = [other for other in rows if other["dataset"] == row["dataset"]]
        worse = sum(other[metric] < row[metric] for other in rivals)
        counts[row["backbone"], row["loss"]] += 1 + worse
    table = rank(frame)
    mine = table[table["protocol"] == LP]
    for row in mine.to_dict("records"):
        count = counts[row["backbone"], row["loss"]]
        assert row["borda"] == count
        assert row["rank"] == 1 + sum(other > count for other in counts.values())
    assert [*mine["rank"]] == sorted(mine["rank"])


def test_medals_and_the_best_follow_the_ranking(frame: pd.DataFrame) -> None:
    table, won = rank(frame), medals(frame)
    assert len(won) == 27
    for (protocol, size), rows in won.groupby(["protocol", "size"]):
        ranks = table[(table["protocol"] == protocol) & (table["size"] == size)]["rank"]
        assert [*rows["rank"]] == sorted(ranks)[:3]
        assert [*rows["medal"]] == ["gold", "silver", "bronze"]
    top = best(frame).set_index(["protocol", "dataset"])
    assert len(top) == 18
    # 5 accuracies, each the best of 80
    assert top.loc[(FFT, "flowers-102"), "backbone"] == "convnext_base.fb_in22k"
    assert (top["borda"] <= 400).all()


def test_correlations(frame: pd.DataFrame) -> None:
    rows = frame[frame["protocol"] == FFT]
    heat = correlations.heat_map(frame).set_index(["protocol", "metric"])
    assert heat.loc[(FFT, "clean"), "linf"] == pytest.approx(
        stats.spearmanr(rows["clean"], rows["linf"]).statistic
    )
    means = correlations.mean_correlations(frame).set_index(["protocol", "factor", "level"])
    matrix = stats.spearmanr(rows[list(METRICS)]).statistic
    expected = (np.abs(matrix).sum() - 5) / 20
    assert means.loc[(FFT, "all", "all"), "pooled"] == pytest.approx(expected)
    # Whole groups without any robust accuracy: said, not counted as a correlation.
    assert means.loc[(LP, "pretraining", "fusion"), "undefined"] == 6
    proxies = correlations.proxies(frame)
    assert [*proxies["configurations"]] == [80, 40, 40] * 2
    assert {*proxies["against"]} == {FFT}


def test_wins_as_published_and_by_a_sign_test(frame: pd.DataFrame) -> None:
    wins = effects.count_wins(frame).set_index(["protocol", "size"])
    large, every = wins.loc[FFT, "large"], wins.loc[FFT, "all"]
    assert (large["trades"], large["classic"]) == (18, 0)
    assert large["sign_p"] == pytest.approx(2 / 2**18)
    assert every["published_odds"] == pytest.approx(every["odds"] ** 2)
    assert every["published_p"] < every["sign_p"]


def test_an_interaction_is_not_that_cells_differ() -> None:
    """Balanced 2 x 2 cells: sums of squares by hand."""
    noise = np.array([-1.0, 0.0, 1.0])
    parallel, crossed = (
        pd.DataFrame(
            [
                {"size": a, "type": b, "borda": 10 * (a == "x") + slope * (a == b) + e}
                for a, b in product("xy", "xy")
                for e in noise
            ]
        )
        for slope in (0.0, 4.0)
    )
    F, p, df = effects.interaction(parallel, "size", "type")
    assert (F, p, df) == (pytest.approx(0, abs=1e-9), pytest.approx(1), 1)
    F, p, df = effects.interaction(crossed, "size", "type")
    assert pytest.approx(12 * 2**2 / (4 * 2 / 8)) == F  # contrast of 2 on 12 values, 8 df left
    assert p == pytest.approx(stats.f.sf(F, 1, 8))
    lonely = parallel[(parallel["size"] == "x") | (parallel["type"] == "x")]
    assert np.isnan(effects.interaction(lonely, "size", "type")[0])


def test_letters_are_shared_by_levels_that_do_not_differ() -> None:
    noise = np.linspace(-1, 1, 12)
    groups = {"low": noise, "middle": noise + 0.55, "high": noise + 1.1, "one": np.array([5.0])}
    assert mark(groups, 0.1) == {"high": "a", "middle": "ab", "low": "b", "one": ""}
    assert mark({"a": noise, "b": noise + 9}, 0.1) == {"b": "a", "a": "b"}


def test_the_top_are_the_best(frame: pd.DataFrame) -> None:
    share = effects.share_of_top(frame).set_index(["protocol", "k"])
    table = rank(frame)
    robust = table[table["pretraining"] == effects.ROBUST]
    robust = robust[(robust["backbone"] != effects.OTHER_RECIPE) & (robust["protocol"] == FFT)]
    first = robust.nsmallest(3, "rank")["loss"]
    assert share.loc[(FFT, 3), "of_best"] == (first == "Classic AT").mean()
    assert share.loc[(FFT, 8), "of_best"] == share.loc[(FFT, 8), "published"] == 0.5
    assert len(effects.compare_losses(frame)) == 3


def test_the_check_finds_what_does_not_follow(call: Call) -> None:
    code, out, err = call("tables", "guide", "--check")
    assert (code, err) == (0, "")
    for line in (
        "757 of 7200 accuracies are no multiple of 1/1000",
        "l2 is above clean in 30 rows",
        "l1 is above clean in 25 rows",
        "below 5 % in 35 of 480 rows",
        "vit_b,clip,laion2b names 2 backbones",
        "vit_small_patch16_224.dino is called vit_b,dino,in1k",
        "eva02_tiny_patch14_224.mim_in22k is classed as medium; its 5.5 M",
        "FFT (50 epochs), pretraining: p = 0.089 as computed, 0.170 by Welch's test",
        "FFT (50 epochs), size x loss: p = 9.7e-07 over 6 cells, 0.5 of the interaction",
        "TRADES wins 11 of 15 backbones; odds of 2.75 become 7.56",
        "the sum of products is 0 for 64 of 80 configurations",
        "linf correlates with clean by 0.793, with common by 0.836",
    ):
        assert line in out, line


def test_a_check_of_sound_numbers_finds_nothing_wrong(call: Call, tmp_path: Path) -> None:
    _, out, _ = call("tables", "--from", small(tmp_path / "g.csv"), "--check")
    assert "## Accuracies of a part of the test set (0)" in out
    assert "## Attacked accuracy above the clean one (0)" in out
    assert "## Names and classes (0)" in out


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
    return lambda rows: rows[line].update(cells)


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
    "text": (changed(1, L2_acc="x"), "g.csv:3: L2_acc: expected a fraction in [0, 1], got 'x'"),
    "twice": (lambda rows: rows.append(rows[0]), "stanford_cars is in g.csv:2 already"),
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
        (["--table", "rankin"], "--table: unknown table 'rankin', did you mean 'ranking'?"),
        (["--table", "medals", "--compare"], "--table: no published counterpart of 'medals'"),
        (["--format", "tidy"], "--format tidy: expected one --table of ranking, "),
        (["--partial"], "--partial, --significant: do not apply to the Guide's tables"),
    ],
)
def test_options_that_do_not_fit(
    call: Call, tmp_path: Path, words: list[str], message: str
) -> None:
    code, _, err = call("tables", "--from", small(tmp_path / "g.csv"), *words)
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


def test_levels_and_proxies_are_drawn(frame: pd.DataFrame) -> None:
    ((stem, figure),) = proxies(frame)
    assert stem == "guide_proxies"
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "all: 0.44, Classic AT: 0.10, TRADES: 0.52"
    half = frame[(frame["protocol"] == FFT) & (frame["size"] != "small")].reset_index(drop=True)
    ((_, figure),) = levels(half)
    assert [axes.get_title() for axes in figure.axes] == ["size", "type", "loss", "pretraining"]
    assert {text.get_text().strip() for text in figure.axes[0].texts} == {"a", "b"}


GRID = (
    "name: mini\nbase: {epochs: 5, dataset: cars}\ngrid: {backbone: [r50, vit], schedule: [fix]}\n"
    "tables: [guide]\n"
)


def test_runs_and_files_give_one_frame(tmp_path: Path) -> None:
    finished(tmp_path, 80, backbone="r50", epochs=5)
    finished(tmp_path, 60, backbone="vit", epochs=5)
    frame = of_runs(Results(tmp_path, index=False))
    assert [*frame["state"]] == ["done", "done"], [*frame["reason"]]
    assert {*frame["protocol"]} == {"FFT (5 epochs)"} and {*frame["loss"]} == {"Classic AT"}
    (row,) = frame[frame["backbone"] == "resnet50.a1_in1k"].to_dict("records")
    assert [row[metric] for metric in METRICS] == [0.8, 0.7, 0.6, 0.5, 0.75]
    assert (row["n"], row["dataset"], row["size"]) == (100, "stanford_cars", "medium")
    path = tmp_path / "same.csv"
    names = dict(zip(CELL, KEYS, strict=True)) | {ours: theirs for theirs, ours in COLUMNS.items()}
    frame.rename(columns=names)[HEADER].to_csv(path, index=False)
    again = Measured.files([path]).frame
    pd.testing.assert_frame_equal(rank(again), rank(frame))
    output = tables(Measured(frame), names=["measurements"], compare=True)
    assert "80.00" in output.text


def test_seeds_are_averaged_and_other_differences_are_not(call: Call, tmp_path: Path) -> None:
    finished(tmp_path, 80, epochs=5)
    finished(tmp_path, 60, epochs=5, seed=1)
    (row,) = of_runs(Results(tmp_path, index=False)).to_dict("records")
    assert row["clean"] == pytest.approx(0.7) and row["sum"] == pytest.approx(2.85)
    finished(tmp_path, 60, epochs=5, seed=1, batch=64)
    path = tmp_path / "mini.yaml"
    path.write_text(GRID)
    code, out, err = call("tables", str(path), "--root", str(tmp_path / "empty"))
    assert code == 3 and out.startswith("**Ranking, FFT (5 epochs)**")
    assert "missing (not started), 2 of 2 cells: FFT (5 epochs)/resnet50.a1_in1k/Clas" in err
    with pytest.raises(Exception, match=r"stanford_cars: several runs \("):
        of_runs(Results(tmp_path, index=False))


def test_a_backbone_outside_the_benchmark_has_the_classes_of_the_registry() -> None:
    assert facts("robswin")[1:3] == ("large", "fully attention")
    assert facts("robustly.unknown")[1:] == ("", "", "")


def test_the_report_of_the_benchmark_has_its_tables_and_figures(tmp_path: Path) -> None:
    for backbone, right in (("r50", 80), ("vit", 60)):
        for protocol in ("full", "linear"):
            finished(tmp_path, right, backbone=backbone, epochs=5, protocol=protocol)
    digests = Digests.of(Results(tmp_path, index=False))
    path = write(digests, tmp_path / "out", title="mini", guide=True)
    text, parts = path.read_text("utf-8"), unpacked(path)
    assert "FFT (5 epochs): resnet50.a1_in1k with Classic AT ranks first of 2" in text
    assert "no pair of fix and sched" not in text and "Rankings and tests" in text
    titles = [table["title"] for table in parts["core"]["layout"]]
    assert titles[:2] == ["Ranking, FFT (5 epochs)", "Ranking, LP (5 epochs)"]
    assert "svg" in parts["figure-0"] and CAPTIONS["plane"] in text

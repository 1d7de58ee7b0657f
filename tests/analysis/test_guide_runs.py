"""The sister benchmark from runs of a store: one frame with files, seeds, a plan, the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from guide_runs import finished
from report_page import unpacked

from analysis import Results
from analysis.guide.command import Measured, tables
from analysis.guide.design import CELL, METRICS
from analysis.guide.figures import CAPTIONS
from analysis.guide.measurements import COLUMNS, KEYS, published
from analysis.guide.own import of_runs
from analysis.guide.ranking import rank
from analysis.report import Digests, write

HEADER = [*KEYS, *COLUMNS]
Call = Callable[..., tuple[int, str, str]]

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
    with pytest.raises(Exception, match=r"stanford_cars: expected one run for each seed"):
        of_runs(Results(tmp_path, index=False))


def test_the_report_of_the_benchmark_has_its_tables_and_figures(tmp_path: Path) -> None:
    for backbone, right in (("r50", 80), ("vit", 60)):
        for protocol in ("full", "linear"):
            finished(tmp_path, right, backbone=backbone, epochs=5, protocol=protocol)
    digests = Digests.of(Results(tmp_path, index=False))
    path = write(digests, tmp_path / "out", title="mini", tables=["guide"])
    text, parts = path.read_text("utf-8"), unpacked(path)
    assert "FFT (5 epochs): resnet50.a1_in1k with Classic AT ranks first of 2" in text
    assert "no pair of fix and sched" not in text and "Rankings and tests" in text
    cells = parts["core"]["cells"]
    keys = [column["key"] for column in cells["columns"]]
    (row,) = [
        dict(zip(keys, row, strict=True))
        for row in cells["rows"]
        if row[0] == "R50" and "protocol=full" in row
    ]
    # The table's own attack is one of the three.
    found = [row["adv"]["text"], *(row[key] for key in METRICS[1:] if key in row)]
    assert sorted(found) == ["50.00", "60.00", "70.00", "75.00"]
    assert {*METRICS[1:]} & {c["title"] for c in cells["columns"] if c["number"]} == {
        name for name in METRICS[1:] if name in row
    }
    titles = [table["title"] for table in parts["core"]["layout"]]
    assert titles[:2] == ["Ranking, FFT (5 epochs)", "Ranking, LP (5 epochs)"]
    assert "svg" in parts["figure-0"] and CAPTIONS["plane"] in text


def test_a_plan_shows_what_was_published_of_its_runs(call: Call) -> None:
    part = ("--only", "backbone=r50,vit", "dataset=cars", "epochs=50", "protocol=full")
    code, out, _ = call("plan", "guide", "--published", "linf", *part)
    assert code == 0 and "linf as published, in %, for 4 runs; a cell shows the mean" in out
    lines = {line.split()[0]: line.split()[1:3] for line in out.splitlines() if " 0/2 " in line}
    rows = published()
    rows = rows[(rows["protocol"] == "FFT (50 epochs)") & (rows["dataset"] == "stanford_cars")]
    means = 100 * rows.groupby("backbone")["linf"].mean()
    for ours, theirs in (("r50", "resnet50.a1_in1k"), ("vit", "vit_base_patch16_224.augreg_in1k")):
        assert lines[ours][0] == "0/2"
        assert float(lines[ours][1]) == pytest.approx(means[theirs], abs=0.0501)
    only = ("--only", "backbone=swin", "dataset=cars", "epsilon_g=4/255", "schedule=fix")
    code, out, _ = call("plan", "t1_t2", "--published", "adv", "--json", *only)
    (found,) = json.loads(out)["published"].values()
    assert found == {"clean": 60.2, "adv": 31.9, "expected": 45.89}  # Table 7: T1=0;T2=0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("t1_t2", "--published", "expect"), "unknown metric 'expect', did you mean 'expected'?"),
        (("demo", "--published", "adv"), "no published values for the runs of demo"),
        (("guide", "demo", "--published", "adv"), "expected one GRID"),
    ],
)
def test_published_values_that_are_not_there(
    call: Call, words: tuple[str, ...], message: str
) -> None:
    assert call("plan", *words) == (2, "", f"--published: {message}\n")

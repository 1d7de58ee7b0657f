"""Results that rest on a search of few trials say so in every output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import analysis_store as made
import pytest
from report_page import written

from analysis import tuned
from analysis.command import Source, explain, provenance
from analysis.command import tables as write

FEW = "hyper-parameters from a search of 1 trial, expected at least 10"


def store(root: Path, trials: dict[str, int]) -> list[dict[str, Any]]:
    """Finished runs of one model and two datasets; trials: dataset -> of the search behind it."""
    runs = made.grid(backbones=("swin",))
    for run in runs:
        made.finish(root, run)
    rows = made.manifest(root, runs)
    for row in rows:
        count = trials.get(row["config"]["dataset"])
        if count is not None:
            params = {"optim.lr": 3e-4}
            about = {"search": f"a-search-of-{count}", "trials": count, "least": 10}
            row["tuned"] = {**about, "params": params}
    return rows


@pytest.mark.parametrize("form", ["markdown", "latex", "csv", "tidy"])
def test_every_format_flags_them(tmp_path: Path, form: str) -> None:
    rows = store(tmp_path, {"cars": 1, "aircraft": 40})
    output = write(Source.store(tmp_path, rows), form)
    assert any(remark.startswith(f"few trials: {FEW}: SWIN/Cars/") for remark in output.remarks)
    assert not any("Aircraft" in remark for remark in output.remarks)
    for table in output.tables:
        for _, entries in table.rows:
            for entry in entries:
                assert entry.key
                assert ("\N{DOUBLE DAGGER}" in entry.mark) == (entry.key.dataset == "Cars")
        assert any(FEW in note for note in table.notes)
    if form in ("markdown", "latex"):
        assert FEW in output.text
    assert output.complete, "the numbers are all there"


def test_a_random_draw_is_called_one(tmp_path: Path) -> None:
    """Values that nobody searched, one of which is a word."""
    rows = store(tmp_path, {"cars": 0})
    for row in rows:
        if "tuned" in row:
            row["tuned"]["params"]["optim.rate"] = "constant"
    source = Source.store(tmp_path, rows)
    (remark,) = write(source).remarks
    drawn = "few trials: hyper-parameters drawn at random, nothing was searched: SWIN/Cars/"
    assert remark.startswith(drawn)
    origins = {tuned.origin(run) for run in source.results.runs} if source.results else set()
    told = "optim.lr 0.0003, optim.rate constant: a random draw, nothing was searched"
    assert origins == {None, f"{told} (a-search-of-0)"}


def test_means_over_datasets_say_that_some_rest_on_them(tmp_path: Path) -> None:
    rows = store(tmp_path, {"cars": 1})
    (table,) = write(Source.store(tmp_path, rows), numbers=[10]).tables
    assert any(FEW in note for note in table.notes)


def test_enough_trials_and_none_at_all_are_not_flagged(tmp_path: Path) -> None:
    for trials in ({"cars": 10, "aircraft": 11}, {}):
        output = write(Source.store(tmp_path, store(tmp_path, trials)))
        assert not output.remarks
        assert "trials" not in output.text and "\N{DOUBLE DAGGER}" not in output.text


def test_the_report_and_the_origin_of_a_number(tmp_path: Path) -> None:
    rows = store(tmp_path, {"cars": 1})
    source = Source.store(tmp_path, rows)
    told = explain(source, "SWIN/Cars/fix/clean@4")
    assert "optim.lr 0.0003: best of 1 trial (expected at least 10) of search a-search-of-1" in told
    assert "trials" not in explain(source, "SWIN/Aircraft/fix/clean@4")
    sidecar = json.loads(json.dumps(provenance(source)))
    assert {item["trials"] for item in sidecar["tuned"].values()} == {1}
    assert source.results
    page = written(source.results, tmp_path / "report")
    assert page.count(FEW) >= 2, "among the findings, and below the table"

"""Data out of the store: exports, the example script, and the mirror on W&B."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import analysis_store as made
import pandas as pd
import pytest

from analysis import Results
from analysis.cells import group_cells
from analysis.command import Source, tables
from analysis.mirror import LOGGED, differences
from analysis.tidy import export_frame
from core.config import ConfigError, EvalConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_every_frame_survives_export(tmp_path: Path, suffix: str) -> None:
    results = Results(tmp_path, made.fill(tmp_path, made.grid(("vit",), ("cars",))))
    for name in ("values", "curves", "epochs", "table"):
        frame = getattr(results, name)
        path = export_frame(frame, tmp_path / "out" / f"{name}{suffix}")
        back = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
        assert list(back.columns) == list(frame.columns) and len(back) == len(frame)
        if "value" in frame:
            assert list(back["value"]) == pytest.approx(list(frame["value"]))
            assert list(back["n"]) == list(frame["n"])


def test_tidy_is_all_that_the_tables_show(tmp_path: Path) -> None:
    """Judged in two norms, which have tables of their own; and it reads back as it was written."""
    judge = EvalConfig.parse({"norm": "l2", "epsilons": ["0", "0.5"], "steps": 5})
    runs = made.grid(("vit",), ("cars",), seeds=(0, 1))
    for run in runs:
        for evaluation in (made.EVALUATION, judge):
            made.finish(tmp_path, run, evaluation)
    rows = made.manifest(tmp_path, runs, (made.EVALUATION, judge))
    source = Source.store(tmp_path, rows)
    (tmp_path / "tidy.csv").write_text(tables(source, "tidy").text)
    back, before = (
        group_cells(Source.files([tmp_path / "tidy.csv"]).values),
        group_cells(source.values),
    )
    assert {key: cell.value for key, cell in back.items()} == {
        key: pytest.approx(cell.value) for key, cell in before.items()
    }
    shown = [e for table in tables(source).tables for _, line in table.rows for e in line]
    assert len(shown) == len(back) == 36


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean '\.parquet'"):
        export_frame(pd.DataFrame(), tmp_path / "a.parqet")
    assert list(tmp_path.iterdir()) == []


def test_the_example_runs_as_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.fill(tmp_path, made.grid())
    monkeypatch.setattr(sys, "argv", ["explore.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "analysis" / "explore.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "sched minus fix" in shown and "ViT" in shown


def faithful(results: Results) -> dict[str, list[dict[str, Any]]]:
    return {
        run.dir.id: [
            {"_step": row["epoch"], **{name: value(row) for name, value in LOGGED.items()}}
            for row in run.epochs
        ]
        for run in results.runs
    }


def test_a_faithful_mirror_differs_nowhere(tmp_path: Path) -> None:
    results = Results(tmp_path, made.fill(tmp_path, made.grid(("vit",), ("cars",))))
    assert differences(results, faithful(results).__getitem__) == []


def test_what_the_mirror_lacks_or_changes_is_named(tmp_path: Path) -> None:
    results = Results(tmp_path, made.fill(tmp_path, made.grid(("vit",), ("cars",))))
    copy = faithful(results)
    first, second, third = (run.dir.id for run in results.runs[:3])
    del copy[first]
    copy[second] = [row for row in copy[second] if row["_step"] != 4]
    copy[third][2]["val/clean"] += 0.01

    def history(run_id: str) -> Iterable[Mapping[str, Any]]:
        return copy[run_id]

    found = differences(results, history)
    assert len(found) == 3
    assert found[0].startswith(f"{first}: not on W&B")
    assert found[1] == f"{second}: epoch 4 is not on W&B"
    assert found[2].startswith(f"{third}: epoch 2, val/clean:")

"""How many classes a task has: recorded by new runs, found in what old ones left."""

from __future__ import annotations

from pathlib import Path

import analysis_store as made
from report_page import written

from analysis import Results
from analysis.findings import delay_table
from core.config import registry
from core.data import drawn, splits
from core.store.classes import classes_of
from core.store.folders import Store
from core.store.json_files import read_jsonl


def test_the_rows_come_first_then_the_name_then_the_labels(store: Store, tmp_path: Path) -> None:
    own = str(tmp_path / "birds")
    run = made.finish(store.root, made.config(dataset=own))
    assert classes_of(run, own, []) == 10, "the labels of a whole split"
    assert classes_of(run, "cub", []) == 200
    assert classes_of(run, "cub", [{"classes": 7}]) == 7
    made.rewrite(run.eval_json(made.EVALUATION.id), split_images=9999)
    assert classes_of(run, own, []) is None, "a part of a split may lack some"


def test_what_is_known_of_drawn_data_is_so(store: Store) -> None:
    fake = splits.load(made.config(dataset="fake", image_size=32), store)
    assert registry.known_classes("fake") == fake.classes == 10
    assert registry.known_classes("plane") == drawn.CLASSES["plane"] == 32
    assert registry.known_classes("imagenette") == 10
    assert registry.known_classes("/data/birds") is None


def test_tables_name_the_rule_and_the_papers_delay_stays_available(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("imagenette", "cars"), ("4/255",), ("fix",))
    results = Results(tmp_path, made.fill(tmp_path, runs))  # 15 % right at the end
    table = results.table.set_index("dataset")
    assert table["delay"].to_dict() == {"ImageNette": 12, "Cars": 8}
    assert table["delay_of_paper"].to_dict() == {"ImageNette": 8, "Cars": 8}
    assert table["threshold"].round(1).to_dict() == {"ImageNette": 22.4, "Cars": 5.0}
    (note,) = delay_table(results).notes
    assert note[1:].partition("'")[0] in written(results, tmp_path / "page")
    assert note == (
        "First epoch (from 0) whose validation clean accuracy exceeds 5 %, 22.4 % (ImageNette, 10 "
        "classes); the paper's rule, made for 100 classes and more, is 5 %"
    )


def test_an_unknown_number_of_classes_is_reported(tmp_path: Path) -> None:
    run = made.config(dataset="/data/birds", schedule="fix")
    made.start(tmp_path, run)
    results = Results(tmp_path, made.manifest(tmp_path, [run]))
    (note,) = delay_table(results).notes
    assert note.endswith("exceeds 5 %; 5 % for birds, whose number of classes is unknown")

    told = made.config(dataset="/data/birds", schedule="sched")
    folder = made.finish(tmp_path, told)
    rows = [row | {"classes": 12} for row in read_jsonl(folder.metrics)]
    made.write_jsonl(folder.metrics, rows)
    (note,) = delay_table(Results(tmp_path, made.manifest(tmp_path, [run, told]))).notes
    assert "birds, 12 classes" in note and "unknown" not in note

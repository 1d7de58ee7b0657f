"""Runs of one setting that differ in more than the seed: compared and tested among themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import analysis_store as made
import numpy as np
import pytest

from analysis import Results
from analysis.cells import group_cells
from analysis.check import claims
from analysis.command import Source, tables
from analysis.derived import paired_tests
from analysis.figures import draw
from analysis.findings import finding, gaps
from analysis.paper import main_cells, main_tables
from analysis.report import Digests
from analysis.report.facts import findings
from analysis.variants import variants_of

RATES = (1e-3, 1e-4)
VARIANTS = ["optim.lr=0.001", "optim.lr=0.0001"]


def rated(**fields: object) -> list:
    """A grid at two learning rates."""
    return [run for lr in RATES for run in made.grid(**fields, optim={"lr": lr})]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """fix and sched on six pairs, at two rates; one run is missing at the first."""
    datasets, schedules = ("aircraft", "cars", "dogs"), ("fix", "sched")
    runs = rated(datasets=datasets, epsilons=("4/255",), schedules=schedules)
    for run in runs[1:]:
        made.finish(tmp_path, run)
    return Source.store(tmp_path, made.manifest(tmp_path, runs))


def test_a_pair_counts_once_in_a_test(source: Source) -> None:
    tests = paired_tests(main_cells(source.values), partial=True)
    assert [test.variant for test in tests] == [name for name in VARIANTS for _ in range(3)]
    assert [(test.pairs, test.test and test.test.n) for test in tests[::3]] == [(6, 5), (6, 6)]
    (table,) = tables(source, numbers=[9], partial=True).tables
    assert table.stub == ("eps_g", "Variant", "Metric") and len(table.rows) == 6
    lines = tables(source, "tidy", numbers=[9], partial=True).text.splitlines()
    assert lines[0].endswith(",variant") and lines[-1].endswith("done,optim.lr=0.0001")


def test_a_pair_counts_once_in_a_sentence(source: Source) -> None:
    results = source.results
    assert results
    assert [(gap.variant, gap.pairs) for gap in gaps(source.values)] == [
        (VARIANTS[1], 6),
        (VARIANTS[0], 6),
    ]
    assert "at eps_g = 4/255 [optim.lr=0.0001], fix" in finding(results)
    assert "on 6 of 6 backbone-dataset pairs" in finding(results)
    assert [line.split("better in ")[1].split(",")[0] for line in claims(source.values)] == [
        *["5 of 5"] * 3,
        *["6 of 6"] * 3,
    ]
    tested = [
        text for text in findings(Digests.of(results), paper=True) if text.startswith("Over ")
    ]
    assert tested and all(text.startswith("Over 6 pairs at eps_g = 4/255 [") for text in tested)


def test_maps_of_hinges_show_every_variant(tmp_path: Path) -> None:
    hinges = [{"T1": a, "T2": b} for a, b in ((0, 6), (3, 6), (3, 9))]
    runs = rated(backbones=("vit",), datasets=("cars",), epsilons=("4/255",), schedules=hinges)
    for number, run in enumerate(runs):
        critical = np.repeat([0, 9], [99 - number, 1 + number]).astype(np.int16)
        made.finish(tmp_path, run, critical=critical)
    source = Source.store(tmp_path, made.manifest(tmp_path, runs))
    drawn = dict(draw(source, ["hinges", "dynamics"]))
    maps = drawn["hinges-ViT-Cars"].axes
    assert [[text.get_text() for text in axes.texts] for axes in maps[::3]] == [
        ["4.0", "5.0", "6.0"],
        ["1.0", "2.0", "3.0"],
    ]
    assert [axes.get_ylabel().split("\n")[0] for axes in maps[::3]] == VARIANTS[::-1]
    assert len(drawn["dynamics-ViT-Cars"].axes) == 4, "two T1 for each of two rates"


def test_hinges_that_follow_from_the_epochs_set_nothing_apart(tmp_path: Path) -> None:
    """`sched` turns after other epochs in a longer training: it still competes with `fix` there."""
    runs = [run for epochs in (8, 16) for run in made.grid(epsilons=("4/255",), epochs=epochs)]
    for run in runs:
        made.finish(tmp_path, run)
    values = Source.store(tmp_path, made.manifest(tmp_path, runs)).values
    assert set(values["variant"]) == {"epochs=8", "epochs=16"}
    assert {test.variant for test in paired_tests(main_cells(values))} == {"epochs=8", "epochs=16"}


def test_delays_of_variants_are_not_averaged(tmp_path: Path) -> None:
    fixes = rated(backbones=("vit",), datasets=("cars",), schedules=("fix",))
    results = Results(tmp_path, made.fill(tmp_path, fixes))
    ((_, figure),) = draw(Source(results.values, results), ["delay"])
    assert len(figure.axes[0].lines) == 2


def test_folders_of_one_name_are_two_datasets(tmp_path: Path) -> None:
    runs = [made.config(dataset=f"/data/{name}/images", schedule="fix") for name in ("a", "b")]
    for run in runs:
        made.finish(tmp_path, run)
    found = group_cells(Results(tmp_path, made.manifest(tmp_path, runs)).values)
    assert {key.variant for key in found} == {"dataset=/data/a/images", "dataset=/data/b/images"}
    assert all(cell.asked == 1 for cell in found.values())


def test_a_table_says_how_many_seeds_its_cells_have(tmp_path: Path) -> None:
    settings = [("fix", 0), ("sched", 0), ("sched", 1), ("sched", 2)]
    runs = [made.config(schedule=schedule, seed=seed) for schedule, seed in settings]
    source = Source.store(tmp_path, made.fill(tmp_path, runs))
    assert tables(source).tables[0].notes[0].endswith("deviation over 1 to 3 seeds")
    (alone,) = main_tables(source.values[source.values["setting"] == "sched"])
    assert alone.notes[0].endswith("deviation over 3 seeds")
    (single,) = main_tables(source.values[source.values["seed"] == 0])
    assert single.notes[0].endswith("; one seed (0)")


def test_a_field_younger_than_a_manifest_sets_no_runs_apart(tmp_path: Path) -> None:
    rows = made.manifest(tmp_path, made.grid(seeds=(0, 1)))
    del rows[0]["config"]["optim"]["no_decay"]
    assert {run.variant for run in Results(tmp_path, rows, index=False).runs} == {""}
    rows[0]["config"]["optim"]["clip"] = 1.0
    found = {run.variant for run in Results(tmp_path, rows, index=False).runs}
    assert found == {"optim.clip=1.0", "optim.clip=0.0"}


def test_searched_rates_set_runs_apart_only_if_nothing_else_does() -> None:
    def row(number: int, protocol: str, **fields: Any) -> dict[str, Any]:
        rates = {"lr": 1e-4 * number, "head_lr": 1e-3} if protocol == "full" else {"lr": 1e-3}
        run = made.config(protocol=protocol, optim=rates, **fields)
        params = {f"optim.{name}": value for name, value in rates.items()}
        config = {"setting": run.setting, "config": run.to_dict()}
        return {"id": run.id, **config, "tuned": {"params": params}}

    rows = [row(1, "full"), row(2, "linear"), row(3, "full", dataset="pets")]
    assert [*variants_of(rows).values()] == ["protocol=full", "protocol=linear", "protocol=full"]
    twins = [row(1, "full"), row(2, "full")]
    assert [*variants_of(twins).values()] == ["optim.lr=0.0001", "optim.lr=0.0002"]


def test_checkpoints_are_named_without_the_folder_that_they_share() -> None:
    files = {"/ckpt/a/Rice2020.pt": "a/Rice2020.pt", "/ckpt/Wong2020.pt#ema": "Wong2020.pt#ema"}
    runs = [made.config(schedule="none", weights=file) for file in files]
    rows = [{"id": r.id, "setting": r.setting, "config": r.to_dict()} for r in runs]
    assert [*variants_of(rows).values()] == [f"weights={name}" for name in files.values()]

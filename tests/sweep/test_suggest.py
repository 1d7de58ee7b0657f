"""`sweep suggest-schedule`: hinges from curves, and a clear line where there are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import analysis_store as made
import numpy as np
import pytest
import yaml

from core.config import RunConfig
from core.store.folders import Store
from sweep import cli, suggestion

EPOCHS = 8
STANDARD = (2, 10, 40, 80, 89, 90, 90, 90)  # of 100: 90 % of the last is 81, first at epoch 4
SLOW = (1, 1, 2, 3, 5, 5, 6, 9)  # exceeds 5 % first at epoch 6


def config(schedule: Any = "fix", **fields: Any) -> RunConfig:
    return made.config(**{"epochs": EPOCHS, "schedule": schedule, "epsilon_g": "8/255"} | fields)


def curve(store: Store, run: RunConfig, correct: Sequence[int]) -> None:
    rows = made.metrics(run, images=100)[: len(correct)]
    for row, count in zip(rows, correct, strict=True):
        row |= {"val_clean_correct": count, "val_clean_images": 100}
    made.write_jsonl(store.run(run.id).metrics, rows)


def one(store: Store, *configs: RunConfig) -> suggestion.Suggestion:
    (found,) = suggestion.suggest(configs, store)
    return found


def test_the_two_rules_of_the_paper(store: Store) -> None:
    curve(store, config("standard"), STANDARD)
    curve(store, config("fix"), SLOW)
    found = one(store, config("standard"), config("fix"), config("sched"))
    assert (found.T1, found.T2, found.seeds, found.problem) == (4, 6, 1, "")
    assert found.snippet == "schedule: {kind: two_hinge, T1: 4, T2: 6}"
    schedule = yaml.safe_load(found.snippet)["schedule"]
    assert RunConfig.parse(config().to_dict() | {"schedule": schedule}).setting == "T1=4;T2=6"


def test_just_90_percent_are_enough() -> None:
    """0.9 * 0.8 is more than 0.72 in floats."""
    for tenths in range(1, 11):
        rows = [
            {"epoch": epoch, "val_clean_correct": right * tenths, "val_clean_images": 100}
            for epoch, right in enumerate((8, 9, 10))
        ]
        assert suggestion.adapted(rows) == 1


def test_runs_of_another_grid_count(store: Store) -> None:
    """A grid with sched alone: its cell's standard and fix runs are found by their ids."""
    curve(store, config("standard"), STANDARD)
    curve(store, config("fix"), SLOW)
    assert one(store, config("sched")).snippet


def test_seeds_are_averaged_and_missing_ones_left_out(store: Store) -> None:
    for seed, late in ((0, SLOW), (1, (1, 1, 1, 1, 1, 1, 1, 9))):
        curve(store, config("standard", seed=seed), STANDARD)
        curve(store, config("fix", seed=seed), late)
    found = one(store, *(config("fix", seed=seed) for seed in (0, 1, 2)))
    assert (found.T2, found.seeds) == (7, 2)  # 6.5, half up


def test_strengths_are_separate_cells(store: Store) -> None:
    curve(store, config("standard"), STANDARD)
    curve(store, config("fix"), SLOW)
    runs = [config("fix", epsilon_g=e) for e in ("4/255", "8/255")]
    weak, strong = suggestion.suggest(runs, store)
    assert weak.epsilon_g == "4/255" and strong.snippet
    assert weak.problem == f"fix run {runs[0].id} is not finished here"


def test_cells_that_differ_in_something_else_are_told_apart(store: Store) -> None:
    runs = [config("fix"), config("fix", protocol="lora"), config("fix", dataset="cub")]
    found = suggestion.suggest(runs, store)
    assert [one.variant for one in found] == ["protocol=full", "protocol=lora", ""]


def test_a_different_validation_does_not_hide_the_standard_run(store: Store) -> None:
    standard, fix = config("standard", validation={"epsilon": "2/255"}), config("fix")
    curve(store, standard, STANDARD)
    curve(store, fix, SLOW)
    assert not one(store, fix).snippet, "by id alone it is another run"
    assert one(store, standard, fix).snippet


@pytest.mark.parametrize(
    ("standard", "fix", "told"),
    [
        (None, SLOW, "standard run vit-cars-standard-s0-"),
        (STANDARD, None, "fix run vit-cars-eps8-fix-s0-"),
        (STANDARD[:5], SLOW, "is not finished here"),
        (None, None, "; fix run"),
        ((1,) * EPOCHS, SLOW, "even standard fine-tuning ends at or below 5% accuracy"),
        (STANDARD, (50,) * EPOCHS, "fix adapts at epoch 0, no later than T1 = 4"),
    ],
)
def test_what_is_missing_is_reported(
    store: Store, standard: Sequence[int] | None, fix: Sequence[int] | None, told: str
) -> None:
    for setting, rows in (("standard", standard), ("fix", fix)):
        if rows:
            curve(store, config(setting), rows)
    found = one(store, config("fix"))
    assert told in found.problem and not found.snippet


def test_a_run_that_never_adapts_counts_all_epochs(store: Store) -> None:
    """As the paper counts it; leaving such runs out would make T2 early where it must be late."""
    for seed, late in ((0, SLOW), (1, (1,) * EPOCHS)):
        curve(store, config("standard", seed=seed), STANDARD)
        curve(store, config("fix", seed=seed), late)
    found = one(store, config("fix"), config("fix", seed=1))
    assert (found.T1, found.T2, found.never, found.problem) == (4, 7, 1, "")  # (6 + 8) / 2


def test_the_mean_over_cells_counts_those_that_never_adapt(store: Store) -> None:
    slow, never = (1, 1, 1, 1, 1, 9, 9, 9), (1,) * EPOCHS
    for dataset, late in (("cars", slow), ("cub", slow), ("dogs", never)):
        curve(store, config("standard", dataset=dataset), STANDARD)
        curve(store, config("fix", dataset=dataset), late)
    found = suggestion.suggest([config("fix", dataset=d) for d in ("cars", "cub", "dogs")], store)
    assert [one.T2 for one in found] == [5, 5, 8] and found[2].snippet.endswith("T2: 8}")
    said = "mean of 3 cells (fix never adapted in 1 of them: all epochs counted): T1 = 4, T2 = 6"
    assert suggestion.overall(found) == said
    assert suggestion.overall(
        [*found, suggestion.Suggestion("vit", "x", "8/255", problem="?")]
    ) == (said.replace("3 cells", "3 of 4 cells"))


def test_chance_is_no_adaptation(store: Store) -> None:
    """ImageNette has 10 classes: a run at 12 % has learnt nothing."""
    dataset = "imagenette"
    curve(store, config("standard", dataset=dataset), (12, 30, 50, 80, 89, 90, 90, 90))
    curve(store, config("fix", dataset=dataset), (10, 12, 11, 12, 10, 12, 24, 12))
    found = one(store, config("fix", dataset=dataset))
    assert (found.T1, found.T2, found.never) == (4, 6, 0)
    curve(store, config("standard", dataset=dataset), (12,) * EPOCHS)
    assert "ends at or below 22.4% accuracy" in one(store, config("fix", dataset=dataset)).problem


def test_fix_is_not_advised_if_it_ends_far_below(store: Store) -> None:
    curve(store, config("standard"), STANDARD)
    curve(store, config("fix"), (20,) * EPOCHS)
    problem = one(store, config("fix")).problem
    assert "use fix" not in problem and "yet it ends 70.0 points below standard" in problem


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "g.yaml"
    grid.write_text(
        "name: g\nbase: {epochs: 8, epsilon_g: 8/255, backbone: vit}\n"
        "grid: {dataset: [cars, cub], schedule: [standard, fix]}\n"
    )
    store = Store(tmp_path / "out")

    def call(*more: str) -> tuple[object, str]:
        command = ["sweep", "suggest-schedule", str(grid), "--root", str(store.root), *more]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr().out

    for dataset, late in (("cars", SLOW), ("cub", (1, 1, 1, 1, 1, 9, 9, 9))):
        curve(store, config("standard", dataset=dataset), STANDARD)
        if dataset == "cub":
            code, shown = call()
            assert code == 3 and "fix run vit-cub-eps8-fix-s0-" in shown
        curve(store, config("fix", dataset=dataset), late)
    code, shown = call()
    assert code == 0 and "schedule: {kind: two_hinge, T1: 4, T2: 6}" in shown
    assert "mean of 2 cells: T1 = 4, T2 = 6" in shown  # (6 + 5) / 2, half up
    code, shown = call("--json")
    assert [(row["T1"], row["T2"]) for row in json.loads(shown)] == [(4, 6), (4, 5)]


def evaluated(store: Store, run: RunConfig, *correct: int) -> None:
    """Of 100 images at 0, 1, ... of 255."""
    made.finish(store.root, run, critical=np.repeat(np.arange(len(correct) + 1), spread(correct)))


def spread(correct: Sequence[int]) -> list[int]:
    """How many of 100 images each strength breaks first; the last number: of those never broken."""
    return [a - b for a, b in pairwise((100, *correct, 0))]


def test_advice_does_not_stand_against_its_own_results(store: Store) -> None:
    """Expected accuracy up to 8/255 of the hinges that the rules give, beside fix and sched."""
    curve(store, config("standard"), STANDARD)
    curve(store, config("fix"), SLOW)
    evals = [made.EVALUATION]
    assert made.EVALUATION.epsilons[-1].number >= Fraction(8, 255)

    def told() -> suggestion.Suggestion:
        (found,) = suggestion.suggest([config("fix"), config("uniform")], store, evals)
        return found

    assert told().measured == "not measured" and told().snippet
    mine = config({"T1": 4, "T2": 6})
    evaluated(store, mine, *[50] * len(made.EVALUATION.epsilons))
    assert told().measured == "not measured", "there is nothing to compare it with"
    evaluated(store, config("sched"), *[40] * len(made.EVALUATION.epsilons))
    assert told().measured == "better, expected 50.0% against 40.0% for sched (1 seed)"
    evaluated(store, config("uniform"), *[60] * len(made.EVALUATION.epsilons))
    worse = "worse, expected 50.0% against 60.0% for uniform (1 seed)"
    assert told().measured == worse and not told().snippet
    assert told().problem == f"measured {worse.replace(',', ':')}"

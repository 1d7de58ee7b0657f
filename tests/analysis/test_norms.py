"""Runs against l2 and l1 beside those against l-inf: each judged by its own strength and units."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import analysis_store
import pytest
from analysis_store import config

from analysis import Results
from analysis.cells import group_cells
from analysis.choice import one_evaluation
from analysis.command import Source, tables
from analysis.figures import draw
from analysis.intervals import Flags
from analysis.paper import main_tables
from core.config import EvalConfig
from core.store.records import expected_over

L2 = EvalConfig.parse({"norm": "l2", "epsilons": ["0", "0.5", "1", "2"], "steps": 5})
L1 = EvalConfig.parse({"norm": "l1", "epsilons": ["0", "12", "75"], "steps": 5})
LINF = EvalConfig.parse({"epsilons": "0..8/255", "steps": 5})


def results(root: Path, *evaluations: EvalConfig, **fields: Any) -> Results:
    """fix and standard runs with these evaluations."""
    for setting in ("fix", "standard"):
        run = config(schedule=setting, **fields)
        for evaluation in evaluations:
            analysis_store.finish(root, run, evaluation)
    return Results(root, index=False)


@pytest.mark.parametrize(
    ("evaluation", "norm", "strength", "name"),
    [(L2, "l2", "2", "2"), (L2, "l2", "1", "1"), (L2, "l2", "1/2", "0.5"), (L1, "l1", "75", "75")],
)
def test_a_run_is_judged_at_its_own_strength(
    tmp_path: Path, evaluation: EvalConfig, norm: str, strength: str, name: str
) -> None:
    found = results(tmp_path, evaluation, norm=norm, epsilon_g=strength)
    (table,) = main_tables(found.values)
    assert table.title == f"eps_g = {name}"
    assert table.complete
    assert f"under APGD-5 ({norm})" in table.notes[0]
    for run in found.runs:
        accuracy = {
            Fraction(row["epsilon"]): row["correct"] / row["n"]
            for one in run.evaluations
            for row in (one.record or {})["rows"]
        }
        mine = found.values[found.values["run_id"] == run.dir.id]
        values = dict(zip(mine["metric"], mine["value"], strict=True))
        below = {eps: value for eps, value in accuracy.items() if eps <= Fraction(strength)}
        assert values["clean"] == pytest.approx(100 * accuracy[Fraction(0)])
        assert values["adv"] == pytest.approx(100 * accuracy[Fraction(strength)])
        assert values["expected"] == pytest.approx(100 * expected_over(below))


@pytest.mark.parametrize(
    ("norm", "strengths", "epsilon_g"),
    [("linf", "0..4/255", "3/255"), ("l2", [0, "1/2", 1, 2, 4], "2")],
)
def test_expected_accuracy_by_the_prior_of_its_evaluation(
    tmp_path: Path, norm: str, strengths: Any, epsilon_g: str
) -> None:
    """Its weights up to eps_g; the table says so, and the interval is of the same number."""
    weights = [4.0, 0.0, 2.0, 1.0, 9.0]
    asked = EvalConfig.parse({"norm": norm, "epsilons": strengths, "prior": weights})
    found = results(tmp_path, asked, norm=norm, epsilon_g=epsilon_g)
    values = found.values[found.values["setting"] == "fix"]
    (record,) = (run.evaluations[0].record for run in found.runs if run.setting == "fix")
    assert record
    right = [row["correct"] / row["n"] for row in record["rows"]]
    expected = values[values["metric"] == "expected"]["value"].item()
    assert expected == pytest.approx(100 * (4 * right[0] + 2 * right[2] + right[3]) / 7)
    (key,) = (k for k in group_cells(values) if k.metric == "expected")
    assert Flags(found, values).scores(key)[1].mean() * 100 == pytest.approx(expected)
    (table,) = main_tables(found.values)
    assert "expected by its own prior" in table.notes[0] and table.complete


def test_a_prior_without_weight_up_to_the_strength_expects_nothing(tmp_path: Path) -> None:
    asked = EvalConfig.parse({"epsilons": "0..4/255", "prior": [0, 0, 0, 0, 1]})
    values = results(tmp_path, asked, epsilon_g="2/255").values
    expected = values[values["metric"] == "expected"]
    assert set(expected["state"]) == {"missing"}
    assert set(expected["reason"]) == {"the prior has no weight up to 2/255"}


def test_in_another_norm_at_the_largest_strength(tmp_path: Path) -> None:
    """Trained against l-inf, judged by l2: there is no eps_g of its own."""
    found = results(tmp_path, LINF, L2, epsilon_g="8/255")
    values = found.values[found.values["eval_id"] == L2.id]
    assert set(values["attack"]) == {"APGD-5 (l2 at 2)"}
    assert set(values["epsilon_g"]) == {8.0}
    curves = found.curves[found.curves["eval_id"] == L2.id]
    assert sorted(set(curves["epsilon"] / 255)) == [0, 0.5, 1, 2]
    mine = values[(values["setting"] == "fix") & (values["metric"] == "adv")]
    weakest = curves[(curves["setting"] == "fix") & (curves["epsilon"] == 2 * 255)]
    assert mine["value"].item() == pytest.approx(weakest["accuracy"].item())


def test_without_a_grid_the_norm_trained_for_comes_first(tmp_path: Path) -> None:
    """By name l1 would be the first: fmn100-l1, fmn100-linf."""
    l1, linf = (
        EvalConfig.parse({"attack": "fmn", "norm": norm, "epsilons": epsilons})
        for norm, epsilons in (("l1", [0, "12"]), ("linf", [0, "4/255"]))
    )
    values = results(tmp_path, l1, linf, epsilon_g="4/255").values
    assert set(one_evaluation(values)["eval_id"]) == {linf.id}


def test_the_same_strength_in_two_norms_is_two_cells(tmp_path: Path) -> None:
    for norm in ("l2", "l1"):
        evaluation = EvalConfig.parse({"norm": norm, "epsilons": ["0", "6", "12"], "steps": 5})
        results(tmp_path, evaluation, norm=norm, epsilon_g="12")
    found = group_cells(Results(tmp_path, index=False).values)
    assert {key.variant for key in found if key.setting == "fix"} == {"norm=l1", "norm=l2"}
    assert all(cell.asked == 1 for key, cell in found.items() if key.setting == "fix")


def test_intervals_hold_the_values(tmp_path: Path) -> None:
    found = results(tmp_path, L2, norm="l2", epsilon_g="2")
    frame = one_evaluation(found.values)
    flags = Flags(found, frame)
    for key, cell in group_cells(frame).items():
        interval = flags.interval(key)
        assert cell.value is not None and interval.low <= cell.value <= interval.high


def test_a_strength_that_was_not_measured_is_named_in_its_norm(tmp_path: Path) -> None:
    found = results(tmp_path, L2, norm="l2", epsilon_g="1.5")
    missing = found.values[found.values["metric"] == "adv"]
    assert set(missing["reason"]) == {"no accuracy measured at 1.5"}


def test_each_norm_of_evaluations_has_separate_tables(tmp_path: Path) -> None:
    results(tmp_path, LINF, L2, L1, epsilon_g="8/255")
    found = results(tmp_path, LINF, L2, L1, norm="l2", epsilon_g="2")
    titles = [table.title for table in main_tables(found.values)]
    assert titles == [
        f"eps_g = {strength}, judged by {norm}"
        for norm in ("l-inf", "l2", "l1")
        for strength in ("8/255", "2")
    ]
    notes = [table.notes[0] for table in main_tables(found.values)]
    assert "APGD-5 (l-inf);" in notes[0] and "APGD-5 (l-inf at 8/255);" in notes[1]
    assert "APGD-5 (l2 at 2);" in notes[2] and "APGD-5 (l2);" in notes[3]


def test_what_a_norm_lacks_is_missing_in_its_own_tables(tmp_path: Path) -> None:
    """A run that has not begun has no attack to tell the norm by."""
    seeds = [config(schedule="fix", epsilon_g="8/255", seed=seed) for seed in (0, 1)]
    rows = analysis_store.manifest(tmp_path, seeds, [LINF, L2])
    for evaluation in (LINF, L2):
        analysis_store.finish(tmp_path, seeds[0], evaluation)
    found = main_tables(Results(tmp_path, rows, index=False).values)
    assert [table.title.rpartition(" ")[2] for table in found] == ["l-inf", "l2"]
    for table in found:
        assert not table.complete
        assert any("1 of 2 seeds, missing (not started)" in note for note in table.notes)


def test_evaluations_without_a_table_are_named(tmp_path: Path) -> None:
    judge = EvalConfig.parse({"attack": "autoattack", "epsilons": ["0", "8/255"], "split": "val"})
    found = results(tmp_path, LINF, judge, epsilon_g="8/255")
    (remark,) = tables(Source(found.values, found)).remarks
    assert remark.startswith("not in these tables: AutoAttack-10 on val; see `--format dataframe")
    found = results(tmp_path / "one", LINF, L2, epsilon_g="8/255")
    assert not tables(Source(found.values, found)).remarks


def test_a_store_of_an_older_version_spells_strengths_in_another_way(tmp_path: Path) -> None:
    """It wrote 0.2 of l2 as '51/255' in configs and as '1/5' in rows: one strength all the same."""
    evaluation = EvalConfig.parse({"norm": "l2", "epsilons": [0, 0.1, 0.2], "steps": 5})
    runs = [config(norm="l2", epsilon_g=0.2, schedule="fix", seed=seed) for seed in (0, 1)]
    for run in runs:
        folder = analysis_store.finish(tmp_path, run, evaluation)
        if run.seed:
            for file in (folder.config, folder.metrics, folder.eval_json(evaluation.id)):
                text = file.read_text()
                assert "0.2" in text or file == folder.config
                spelled = "51/255" if file == folder.config else "1/5"
                file.write_text(re.sub(r"(['\"])0\.2\1", rf"\g<1>{spelled}\g<1>", text))
    found = Results(tmp_path, index=False)
    assert {row["val_epsilon"] for run in found.runs for row in run.epochs} == {"0.2"}
    (table,) = main_tables(found.values)
    assert table.title == "eps_g = 0.2" and table.complete
    assert all(cell.asked == cell.measured == 2 for cell in group_cells(found.values).values())
    assert set(found.values["norm"]) == set(found.values["eval_norm"]) == {"l2"}
    drawn = dict(draw(Source(found.values, found)))
    assert "training-l2_eps0_2" in drawn
    assert drawn["robustness-l2_eps0_2"].axes[0].get_xlabel() == "attack strength (l2)"
    assert drawn["robustness-l2_eps0_2"].axes[0].get_xlim()[1] < 1


def test_figures_do_not_mix_the_units_of_norms(tmp_path: Path) -> None:
    results(tmp_path, LINF, L2, epsilon_g="8/255")
    found = results(tmp_path, LINF, L2, norm="l2", epsilon_g="2")
    stems = [stem for stem, _ in draw(Source(found.values, found))]
    assert "training-eps8" in stems and not any("l2" in stem for stem in stems)

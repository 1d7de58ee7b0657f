"""Evaluations by distance in tables: expected accuracy is the exact integral, also in its interval,
and what several attacks say of the same images stands side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysis_store import EVALUATION, config, finish, manifest, rewrite
from distance_store import finish_by_distance

from analysis import Results
from analysis.attacks import lowered
from analysis.cells import Key, group_cells
from analysis.command import Source, tables
from analysis.gates import run_gates
from analysis.intervals import Flags
from analysis.paper import main_tables
from analysis.statistics import bootstrap
from core.config import ConfigError, EvalConfig
from core.config.evaluation_kinds import MinimalNorm

COARSE = EvalConfig.parse({"attack": "fmn", "epsilons": [0, "4/255"]})
GENERATOR = np.random.default_rng(5)
DISTANCE = GENERATOR.exponential(3, 200) / 255
RIGHT = GENERATOR.random(200) < 0.8


def test_expected_accuracy_is_the_integral_on_any_grid(tmp_path: Path) -> None:
    assert isinstance(COARSE, MinimalNorm)
    run = config(schedule="sched")
    finish_by_distance(tmp_path, run, COARSE, DISTANCE, RIGHT)
    results = Results(tmp_path, manifest(tmp_path, [run], [COARSE]))
    scores = np.where(RIGHT, np.minimum(DISTANCE * 255 / 4, 1), 0)
    found = group_cells(results.values)
    key = next(key for key in found if key.metric == "expected")
    assert found[key].value == pytest.approx(100 * scores.mean(), abs=1e-4)
    interval = Flags(results, results.values).interval(key)
    assert [interval.low, interval.high] == pytest.approx([100 * x for x in bootstrap(scores)])
    _, per_image = Flags(results, results.values).scores(Key(*key))
    assert per_image == pytest.approx(scores, abs=1e-5)
    (table,) = main_tables(results.values)
    assert any(
        "under FMN-100 (l-inf); expected is the exact integral" in note for note in table.notes
    )


def test_the_trapezoid_is_told_beside_the_integral(tmp_path: Path) -> None:
    """Every image breaks just below a whole strength: the trapezoid loses half a step of four."""
    asked = EvalConfig.parse({"attack": "fmn", "epsilons": "0..4/255"})
    assert isinstance(asked, MinimalNorm)
    run = config(schedule="sched")
    finish_by_distance(tmp_path, run, asked, np.full(100, 1.9999 / 255), np.ones(100, bool))
    values = Results(tmp_path, manifest(tmp_path, [run], [asked])).values
    (row,) = values[values["metric"] == "expected"].to_dict("records")
    assert (row["value"], row["trapezoid"]) == pytest.approx((50, 37.5), abs=0.01)
    (table,) = main_tables(values)
    assert (
        "exact integral over distances (the trapezoid rule differs by -12.5 points)"
        in table.notes[0]
    )


def two_attacks(root: Path, *, broken_by_fmn: int) -> list[dict[str, object]]:
    """200 images that are right up to 2/255 under APGD; FMN was asked for the first 150 and breaks
    some of them at 1.5/255."""
    run = config(schedule="sched")
    finish(root, run, critical=np.full(200, 3, np.int16))
    distance = np.full(150, 2.5 / 255)
    distance[:broken_by_fmn] = 1.5 / 255
    finish_by_distance(root, run, COARSE, distance, np.ones(150, bool))
    return manifest(root, [run], [EVALUATION, COARSE])


def test_attacks_stand_side_by_side_and_differences_are_counted(tmp_path: Path) -> None:
    source = Source.store(tmp_path, two_attacks(tmp_path, broken_by_fmn=6))
    made = tables(source, "markdown", numbers=[-2])
    assert "| vit | cars | 4/255 | sched | 0.00 | 0.00 | 0 of 150 | **4.0 at 2/255** |" in (
        made.text.replace("ViT", "vit").replace("Cars", "cars")
    )
    assert [remark for remark in made.remarks if "overrates" in remark] == [
        "gate: APGD-10 overrates 1 of 1 run by more than a point, at most by 4.0 "
        f"({source.results.runs[0].dir.id} at 2/255); see --attacks"  # type: ignore[union-attr]
    ]
    frame = tables(source, "tidy", numbers=[-2]).text.splitlines()
    assert len(frame) == 1 + 2 * 5
    assert any(line.endswith("APGD-10,linf,2/255,150,150,144") for line in frame)
    results = source.results
    assert results and not run_gates(results)
    found = lowered(results.runs)
    assert found and found.expected == pytest.approx(4 / 4)
    assert (found.runs, found.images, found.adv, found.widest) == (1, (150, 150), 0, 4)


def test_each_attack_counts_at_the_strengths_that_it_has_tried(tmp_path: Path) -> None:
    """AutoAttack at eps_g or above alone hides nothing between, and adds what it breaks."""
    run = config(schedule="sched")
    finish(tmp_path, run, critical=np.full(100, 5, np.int16))
    distance = np.full(100, 5 / 255)
    distance[:4] = 1.5 / 255
    finish_by_distance(tmp_path, run, COARSE, distance, np.ones(100, bool))
    broken = np.where(np.arange(100) < 90, 2, 1).astype(np.int16)
    for epsilons, row in (
        ([0, "4/255"], "100.00 | 96.00 | 90.00 | 86.00 | 14 of 100 | **14.0 at 4/255**"),
        ([0, "8/255"], "100.00 | 96.00 | 4 of 100 | **4.0 at 2/255**"),
    ):
        ensemble = EvalConfig.parse({"attack": "autoattack", "epsilons": epsilons})
        finish(tmp_path, run, ensemble, critical=broken)
        rows = manifest(tmp_path, [run], [EVALUATION, COARSE, ensemble])
        text = tables(Source.store(tmp_path, rows), "markdown", numbers=[-2]).text
        assert f"| {row} |" in text, text
        (tmp_path / "runs" / run.id / "evals" / f"{ensemble.id}.json").unlink()


def test_a_point_is_no_alarm_and_one_attack_is_no_comparison(tmp_path: Path) -> None:
    source = Source.store(tmp_path, two_attacks(tmp_path, broken_by_fmn=1))
    assert not [one for one in tables(source, "markdown").remarks if "overrates" in one]
    run = config(schedule="fix")
    finish(tmp_path, run)
    alone = Source.store(tmp_path, manifest(tmp_path, [run]))
    with pytest.raises(ConfigError, match=r"--attacks: no run here .* \{attack: fmn\} beside"):
        tables(alone, "markdown", numbers=[-2])


def test_a_second_opinion_is_a_gate(tmp_path: Path) -> None:
    run = config(schedule="sched")
    folder = finish(tmp_path, run, critical=np.full(200, 3, np.int16))
    for broken, told in ((1, 0), (12, 1)):
        opinion = [{"epsilon": "2/255", "images": 100, "broken": broken}]
        rewrite(folder.eval_json(EVALUATION.id), opinion=opinion, rows=rows_of(150))
        texts = run_gates(Results(tmp_path, manifest(tmp_path, [run]), index=False))
        assert len(texts) == told, texts
    assert texts[0].endswith(
        "overrates it by about 9.0 points at 2/255: FMN breaks 12 of the first 100 survivors"
    )


def rows_of(correct: int) -> list[dict[str, object]]:
    return [
        {"attack": "a", "norm": "linf", "epsilon": str(one), "n": 200, "correct": correct}
        for one in EVALUATION.epsilons
    ]


def test_a_page_says_the_same_of_many_runs_once() -> None:
    from analysis.gates import folded

    one = "{}: APGD-10 overrates it by up to {} points (at 2/255, 64 images) compared with FMN-60"
    many = [one.format(f"run-{i}", i / 2) for i in range(4)]
    other = "run-9: 3 of 64 images have no usable gradient; the attack may overrate the run"
    assert folded([*many, other]) == [f"4 runs, such as {many[3]}", other]
    assert folded(many[:3]) == many[:3]

"""Signatures of failure: each rule at its boundary, and where the sentences show up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import analysis_store as made
import pytest

from analysis import Results
from analysis.command import Source, explain, tables
from analysis.report import Digests
from core.config import Strength
from core.store.signatures import of_end, of_evaluation, of_training
from sweep import cli

EPOCHS = 8


def curve(
    correct: Sequence[int],
    *,
    epsilon: Sequence[float] | float = 0.03,
    adversarial: int = 20,
    loss: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Metrics with so many of 100 validation images right."""
    strengths = epsilon if isinstance(epsilon, Sequence) else [epsilon] * len(correct)
    return [
        {
            "epoch": epoch,
            "epsilon": strengths[epoch],
            "train_loss": loss[epoch] if loss else 3.0,
            "val_clean_correct": right,
            "val_clean_images": 100,
            "val_adv_correct": adversarial,
            "val_adv_images": 100,
            "val_epsilon": "8/255",
        }
        for epoch, right in enumerate(correct)
    ]


def names(*arguments: Any) -> list[str]:
    return [finding.name for finding in of_training(*arguments)]


STANDARD = curve((40, 70, 80, 85, 88, 90, 90, 90), epsilon=0.0)
LATE = (1, 1, 20, 30, 40, 50, 60, 70)  # adapts at epoch 2, a quarter of 8


class TestSuboptimalTransfer:
    def test_late_and_far_below(self) -> None:
        (finding,) = of_training(curve(LATE), EPOCHS, STANDARD)
        assert finding.name == "suboptimal transfer"
        assert finding.text == (
            "adapted only at epoch 2 of 8 (25% of them is late) and ends at 70.0% validation "
            "accuracy, 20.0 points below the 90.0% of standard fine-tuning (20 points are far)"
        )

    @pytest.mark.parametrize("correct", [(1, 20, 20, 30, 40, 50, 60, 65), (*LATE[:-1], 71)])
    def test_one_of_the_two_is_not_enough(self, correct: Sequence[int]) -> None:
        assert names(curve(correct), EPOCHS, STANDARD) == []

    def test_just_as_far_as_the_rule_says(self) -> None:
        """0.7 - 0.5 is less than 0.2 in floats."""
        for end in range(1, 80):
            standard = curve([end + 20] * EPOCHS, epsilon=0.0)
            assert names(curve([1] * 7 + [end]), EPOCHS, standard) == ["suboptimal transfer"]

    def test_never(self) -> None:
        (finding,) = of_training(curve([2] * EPOCHS), EPOCHS, STANDARD)
        assert finding.text.startswith("never adapted in 8 epochs and ends at 2.0% validation")

    def test_a_cell_that_nothing_adapts_to(self) -> None:
        (finding,) = of_training(curve([2] * EPOCHS), EPOCHS, curve([5] * EPOCHS, epsilon=0.0))
        assert str(finding) == (
            "no adaptation: never adapted in 8 epochs; standard fine-tuning, which ends at 5.0%, "
            "did not adapt: the attack is not the cause"
        )

    @pytest.mark.parametrize("standard", [None, [], STANDARD[:5]])
    def test_without_the_standard_run_it_says_so(self, standard: Any) -> None:
        (finding,) = of_training(curve(LATE), EPOCHS, standard)
        assert finding.name == "late adaptation"
        assert "unknown, since the standard run of this cell is not finished here" in finding.text

    def test_nothing_is_said_before_the_end(self) -> None:
        assert names(curve(LATE[:7]), EPOCHS, STANDARD) == []


class TestFewClasses:
    """Of 10 classes chance gets 10 % right, so that 5 % mean nothing."""

    def test_a_run_at_chance_has_not_adapted(self) -> None:
        (finding,) = of_training(curve([12] * EPOCHS), EPOCHS, STANDARD, 10)
        assert finding.name == "suboptimal transfer"
        assert finding.text.startswith("never adapted to 22.4% (10 classes) in 8 epochs and ends")
        assert names(curve([12] * EPOCHS), EPOCHS, STANDARD, 100) == ["suboptimal transfer"]

    def test_the_rows_say_how_many_there_are(self) -> None:
        rows = [row | {"classes": 10} for row in curve([22] * EPOCHS)]
        assert "never adapted to 22.4%" in of_training(rows, EPOCHS, STANDARD)[0].text

    def test_standard_at_chance_has_not_adapted_either(self) -> None:
        found = names(curve([12] * EPOCHS), EPOCHS, curve([15] * EPOCHS, epsilon=0.0), 10)
        assert found == ["no adaptation"]

    def test_a_fall_to_chance_is_a_collapse(self) -> None:
        """From 90 to 50 % of two classes is all there was to lose, though not half of 90."""
        rows = curve((80, 90, 90, 52, 50, 50, 50, 50), epsilon=HINGE)
        assert "unstable transition" in names(rows, EPOCHS, STANDARD, 2)
        assert "unstable transition" not in names(rows, EPOCHS, STANDARD, 100)

    def test_chance_is_no_accuracy_to_be_robust_with(self) -> None:
        rows = curve([21] * EPOCHS, adversarial=0)
        assert "no robustness" not in names(rows, EPOCHS, STANDARD, 10)
        assert "no robustness" in names(rows, EPOCHS, STANDARD, 100)


def test_far_below_shows_though_it_adapts_in_time() -> None:
    (finding,) = of_training(curve([40] * EPOCHS), EPOCHS, STANDARD)
    assert finding.name == "suboptimal transfer"
    assert finding.text == (
        "adapted at epoch 0 of 8, in time, and ends at 40.0% validation accuracy, 50.0 points "
        "below the 90.0% of standard fine-tuning (50 points are far)"
    )
    assert names(curve([41] * EPOCHS), EPOCHS, STANDARD) == []


HINGE = (0.0, 0.0, 0.0, 0.03, 0.03, 0.03, 0.03, 0.03)


class TestUnstableTransition:
    @pytest.mark.parametrize(
        ("correct", "found"),
        [
            ((40, 60, 80, 30, 30, 30, 35, 39), True),  # below half of 80 at once and at the end
            ((40, 60, 80, 40, 40, 40, 40, 40), True),  # just half
            ((40, 60, 80, 30, 35, 40, 50, 60), False),  # recovers
            ((40, 60, 80, 60, 50, 40, 35, 30), False),  # slowly: a price, no collapse
            ((1, 1, 4, 1, 1, 1, 1, 1), False),  # nothing to lose
        ],
    )
    def test_collapse_at_the_first_attack(self, correct: Sequence[int], found: bool) -> None:
        rows = curve(correct, epsilon=HINGE)
        assert ("unstable transition" in names(rows, EPOCHS, STANDARD)) == found

    def test_fix_has_no_transition(self) -> None:
        rows = curve((80, 30, 30, 30, 30, 30, 30, 30))
        assert "unstable transition" not in names(rows, EPOCHS, STANDARD)


@pytest.mark.parametrize(
    ("adversarial", "epsilon", "found"), [(3, 0.03, True), (5, 0.03, False), (0, 0.0, False)]
)
def test_high_clean_and_near_zero_adversarial(
    adversarial: int, epsilon: float, found: bool
) -> None:
    rows = curve([80] * EPOCHS, adversarial=adversarial, epsilon=epsilon)
    assert ("no robustness" in names(rows, EPOCHS, STANDARD)) == found


def test_just_the_least_share_is_kept() -> None:
    """0.05 * 0.4 is more than 0.02 in floats."""
    for kept in (2, 3, 4, 5):
        rows = curve([20 * kept] * EPOCHS, adversarial=kept)
        assert "no robustness" not in names(rows, EPOCHS, STANDARD)


def test_an_accuracy_near_chance_is_not_called_high() -> None:
    assert "no robustness" not in names(curve([20] * EPOCHS, adversarial=0), EPOCHS, STANDARD)


def test_divergence_shows_before_the_end() -> None:
    (finding,) = of_training(curve((50, 5), loss=(3.0, 6.5)), EPOCHS)
    assert finding.name == "divergence" and "from 3 to 6.5" in finding.text
    assert of_training(curve((50, 5), loss=(3.0, 6.0)), EPOCHS) == []
    assert of_training([], EPOCHS) == []
    (ended,) = of_end("diverged", "the training loss became nan at epoch 3")
    assert str(ended) == "divergence: the training loss became nan at epoch 3"
    assert of_end("oom", "out of memory") == []


def test_gradient_masking_from_more_than_a_hundredth() -> None:
    record = {"id": "apgd_ce10-linf-test-0", "n": 500, "zero_gradient_images": 6}
    (finding,) = of_evaluation(record)
    assert finding.name == "gradient masking" and finding.text.startswith("6 of 500 images")
    assert of_evaluation(record | {"zero_gradient_images": 5}) == []


def evaluated(clean: int, adversarial: int) -> dict[str, Any]:
    rows = [("0", clean), ("4/255", (clean + adversarial) // 2), ("8/255", adversarial)]
    return {
        "id": "apgd_ce10-linf-test-0",
        "n": 500,
        "rows": [{"norm": "linf", "epsilon": e, "n": 500, "correct": c} for e, c in rows],
    }


def test_the_final_evaluation_shows_that_nothing_is_robust() -> None:
    at = Strength(Fraction(8, 255))
    (finding,) = of_evaluation(evaluated(400, 19), at)
    assert finding.name == "no robustness" and finding.text.startswith(
        "80.0% clean but 3.8% adversarial accuracy at 8/255 in apgd_ce10-linf-test-0, less than 5%"
    )
    assert of_evaluation(evaluated(400, 20), at) == []
    assert of_evaluation(evaluated(400, 0), Strength(Fraction(0))) == [], "standard fine-tuning"
    assert of_evaluation(evaluated(400, 0), Strength(Fraction(1), "l2")) == [], "another norm"
    assert of_evaluation(evaluated(400, 0), Strength(Fraction(6, 255))) == [], "not measured"
    assert of_evaluation(evaluated(110, 0), at, 10) == [], "22 % of 10 classes is chance"


def collapsed(root: Path) -> list[dict[str, Any]]:
    """A finished pair whose fix run adapts late, ends low and is evaluated without gradients."""
    runs = made.grid(("vit",), ("cars",), ("4/255",), ("standard", "fix"))
    rows = made.fill(root, runs)
    fix = made.Store.at(root).run(runs[1].id)
    made.rewrite(fix.eval_json(made.EVALUATION.id), zero_gradient_images=100)
    return rows


def test_the_report_says_it_after_its_sentence(tmp_path: Path) -> None:
    results = Results(tmp_path, collapsed(tmp_path))
    standard, fix = results.runs
    said = Digests.of(results).diagnosis(fix)
    assert said.startswith("12 of 12 epochs, validation accuracy ")
    assert "; suboptimal transfer: adapted only at epoch 8 of 12" in said
    assert "; gradient masking: 100 of 512 images" in said
    assert ":" not in Digests.of(results).diagnosis(standard)
    assert "late adaptation" in Digests.of(results.only([fix])).diagnosis(fix)


def test_tables_mark_attacked_cells_and_count_the_images(tmp_path: Path) -> None:
    results = Results(tmp_path, collapsed(tmp_path))
    output = tables(Source(results.values, results))
    (table,) = output.tables
    marks = {labels[1]: [entry.mark for entry in row] for labels, row in table.rows}
    assert marks["fix"] == ["", "\N{DOUBLE DAGGER}", "\N{DOUBLE DAGGER}"]
    assert marks["standard"] == ["", "", ""]
    (note,) = [note for note in table.notes if "masking" in note]
    assert "ViT/Cars/fix at 4/255: gradient masking suspected, 100 of 512 images" in note


def test_why_gives_the_signatures_of_a_cell(tmp_path: Path) -> None:
    source = Source.store(tmp_path, collapsed(tmp_path))
    told = explain(source, "ViT/Cars/fix/clean")
    assert "seed 0: suboptimal transfer: adapted only at epoch 8 of 12" in told
    assert "suboptimal" not in explain(source, "ViT/Cars/standard/clean")


def test_status_names_them_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "out"
    collapsed(root)
    grid = tmp_path / "g.yaml"
    grid.write_text(
        "name: g\nbase: {epochs: 12, backbone: vit, dataset: cars, schedule: fix}\n"
        "evals: [{epsilons: 0..8/255}]\n"
    )

    def call(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["sweep", "status", str(grid), "--root", str(root), *more])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    assert "suboptimal" not in call()
    shown = call("--diagnose")
    assert "suboptimal transfer vit-cars-eps4-fix-s0-" in shown and "gradient masking" in shown
    found = json.loads(call("--diagnose", "--json"))["diagnosis"]
    ((run_id, signs),) = found.items()
    assert run_id.startswith("vit-cars-eps4-fix")
    assert [sign["name"] for sign in signs] == ["suboptimal transfer", "gradient masking"]

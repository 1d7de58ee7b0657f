"""Run folders -> frames: values, states of what is missing, variants, curves, epochs."""

from __future__ import annotations

from pathlib import Path

import analysis_store as made
import numpy as np
import pytest

from analysis import Results, load
from core.config import ConfigError, RobustAccuracy
from core.store.folders import Store


def test_values_are_counts_over_images(tmp_path: Path) -> None:
    run = made.config(epsilon_g="4/255", schedule="fix")
    critical = np.repeat([0, 1, 3, 9], [50, 10, 15, 25]).astype(np.int16)
    made.finish(tmp_path, run, critical=critical)
    frame = load(tmp_path).set_index("metric")
    assert frame["value"]["clean"] == 50.0  # 50 of 100 survive strength 0
    assert frame["value"]["adv"] == 25.0  # flags beyond 4/255
    # accuracies at 0..4: 50, 40, 40, 25, 25
    assert frame["value"]["expected"] == pytest.approx((25 + 40 + 40 + 25 + 12.5) / 4)
    assert set(frame["n"]) == {100}
    assert set(frame["attack"]) == {"APGD-10"}
    assert set(frame["model"]) == {"ViT"} and set(frame["dataset"]) == {"Cars"}
    assert set(frame["epsilon_g"]) == {4.0}
    assert set(frame["state"]) == {"done"}


def test_standard_runs_answer_for_every_strength_of_their_pair(tmp_path: Path) -> None:
    rows = made.fill(tmp_path, made.grid(("vit",), ("cars",), epsilons=("4/255", "8/255")))
    frame = load(tmp_path, rows)
    standard = frame[frame["setting"] == "standard"]
    assert sorted(set(standard["epsilon_g"])) == [4.0, 8.0]
    assert standard["run_id"].nunique() == 1
    assert len(standard) == 6


def test_standard_alone_is_clean_accuracy(tmp_path: Path) -> None:
    made.finish(tmp_path, made.config(schedule="standard"))
    frame = load(tmp_path)
    assert list(frame["metric"]) == ["clean"] and list(frame["epsilon_g"]) == [0.0]


def test_manifest_and_store_scan_agree(tmp_path: Path) -> None:
    rows = made.fill(tmp_path, made.grid())
    keys = ["run_id", "epsilon_g", "metric"]
    listed = load(tmp_path, rows).sort_values(keys, ignore_index=True)
    scanned = load(tmp_path).sort_values(keys, ignore_index=True)
    assert listed.equals(scanned)


@pytest.mark.parametrize(
    ("outcome", "reason", "state", "said"),
    [
        ("failed", "loss is not finite at epoch 3", "failed", "not finite"),
        ("cancelled", None, "cancelled", "attempt 1"),
        (None, None, "running", "attempt 1"),
        ("done", None, "missing", "result.json"),
    ],
)
def test_unfinished_runs_keep_their_rows_and_reason(
    tmp_path: Path, outcome: str | None, reason: str | None, state: str, said: str
) -> None:
    run = made.config(epsilon_g="8/255", schedule="fix")
    folder = made.start(tmp_path, run, epochs=4)
    made.attempt(folder, outcome=outcome, reason=reason)
    frame = load(tmp_path, made.manifest(tmp_path, [run]))
    assert len(frame) == 3 and frame["value"].isna().all()
    assert set(frame["state"]) == {state}
    assert said in frame["reason"].iloc[0]


def test_a_run_without_a_folder_is_missing(tmp_path: Path) -> None:
    frame = load(tmp_path, made.manifest(tmp_path, [made.config(schedule="fix")]))
    assert set(frame["state"]) == {"missing"} and set(frame["reason"]) == {"not started"}


def test_fewer_images_than_the_split_are_partial(tmp_path: Path) -> None:
    run = made.config(schedule="fix")
    made.finish(tmp_path, run, critical=made.flags(run, 750), split_images=1000)
    frame = load(tmp_path)
    assert set(frame["state"]) == {"partial"}
    assert set(frame["reason"]) == {"750 of 1000 images"}


def test_a_chosen_subset_is_whole(tmp_path: Path) -> None:
    run = made.config(schedule="fix")
    subset = RobustAccuracy(images=100)
    critical = made.flags(run, 100, 17)
    made.finish(tmp_path, run, subset, critical=critical, split_images=1000)
    frame = load(tmp_path)
    assert set(frame["state"]) == {"done"} and set(frame["n"]) == {100}
    assert set(frame["split_images"]) == {1000}


def test_a_strength_that_was_not_measured_is_named(tmp_path: Path) -> None:
    run = made.config(epsilon_g="8/255", schedule="fix")
    thin = RobustAccuracy(epsilons=("0", "4/255"))
    made.finish(tmp_path, run, thin)
    frame = load(tmp_path).set_index("metric")
    assert frame["state"]["clean"] == "done"
    assert frame["reason"]["adv"] == "no accuracy measured at 8/255"
    assert "7/255" in frame["reason"]["expected"]


def test_a_promised_evaluation_that_is_not_there_is_missing(tmp_path: Path) -> None:
    run = made.config(schedule="fix")
    rows = made.manifest(tmp_path, [run], (made.EVALUATION, RobustAccuracy(steps=50)))
    made.finish(tmp_path, run)
    frame = load(tmp_path, rows)
    assert sorted(set(frame["state"])) == ["done", "missing"]


def test_a_truncated_evaluation_is_damage_of_its_run(tmp_path: Path) -> None:
    run = made.config(schedule="fix")
    folder = made.finish(tmp_path, run)
    path = folder.eval_json(made.EVALUATION.id)
    path.write_text(path.read_text()[:100])
    frame = load(tmp_path)
    assert set(frame["state"]) == {"damaged"} and frame["value"].isna().all()
    assert frame["reason"].str.startswith(f"evals/{path.name}: not complete JSON").all()


def test_only_seeds_share_a_cell(tmp_path: Path) -> None:
    runs = [
        made.config(schedule="fix", seed=seed, optim={"lr": lr})
        for lr, seed in [(1e-3, 0), (1e-3, 1), (1e-4, 2)]
    ]
    frame = load(tmp_path, made.fill(tmp_path, runs))
    assert sorted(set(frame["variant"])) == ["optim.lr=0.0001", "optim.lr=0.001"]
    seeds = load(tmp_path, made.fill(tmp_path, runs[:2]))
    assert set(seeds["variant"]) == {""}


def test_hyper_parameters_per_backbone_are_no_variant(tmp_path: Path) -> None:
    runs = [
        made.config(backbone=backbone, schedule="fix", optim={"lr": lr})
        for backbone, lr in [("vit", 1e-3), ("swin", 1e-4)]
    ]
    assert set(load(tmp_path, made.fill(tmp_path, runs))["variant"]) == {""}


def test_curves_epochs_and_runs(tmp_path: Path) -> None:
    rows = made.fill(tmp_path, made.grid(("vit",), ("cars",), ("4/255",)))
    results = Results(tmp_path, rows)
    assert len(results.curves) == 3 * 9
    assert results.curves["accuracy"].between(0, 100).all()
    assert len(results.epochs) == 3 * 12
    table = results.table.set_index("setting")
    assert table["delay"]["fix"] == 8 and table["delay"]["sched"] == 0
    assert set(table["commit"]) == {"0123abc"} and set(table["seconds"]) == {61.5}
    index, critical = results.critical(rows[0]["id"], made.EVALUATION.id)
    assert index.shape == critical.shape == (made.N,)


def test_a_running_run_shows_its_epochs_but_no_delay(tmp_path: Path) -> None:
    run = made.config(schedule="fix")
    made.attempt(made.start(tmp_path, run, epochs=3))
    results = Results(tmp_path, made.manifest(tmp_path, [run]))
    assert len(results.epochs) == 3
    assert results.runs[0].delay is None


def test_reading_changes_no_run_and_no_sweep(tmp_path: Path) -> None:
    made.fill(tmp_path, made.grid(("vit",), ("cars",)))

    def state() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if "index" not in p.parts}

    before = state()
    results = Results(tmp_path)
    assert len(results.values) and len(results.curves) and len(results.epochs)
    assert (tmp_path / "index").is_dir() and state() == before


def test_an_empty_store_is_one_clear_line(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="no runs here") as caught:
            load(root)
        assert len(caught.value.lines) == 1
    assert not Store.at(tmp_path / "nowhere").root.exists()


def test_results_without_a_commit_are_read(tmp_path: Path) -> None:
    folder = made.finish(tmp_path, made.config(schedule="fix"))
    made.rewrite(folder.eval_json(made.EVALUATION.id), commit=None)
    made.rewrite(folder.env, commit=None, device=None)
    results = Results(tmp_path)
    assert set(results.values["commit"]) == {""} == set(results.table["commit"])

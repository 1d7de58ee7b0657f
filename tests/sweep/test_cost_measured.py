"""Estimates from finished runs, compared with what was spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig
from core.store.folders import Store
from core.store.json_files import write_json, write_jsonl
from slurm.profile import read_profile
from sweep import budget
from sweep.estimate import cost, finished
from sweep.grid import Grid, Run, load_grid, parse_grid
from sweep.state.plan import Plan, State, Status
from sweep.submit import submissions

H100 = read_profile("gpu")
A100 = H100.model_copy(
    update={"slurm": H100.slurm.model_copy(update={"slurm_gpus_per_node": "a100:1"})}
)
GRID = """
name: small
base: {dataset: cars, epochs: 10}
grid: {backbone: [swin, r50], epsilon_g: [4/255], schedule: [fix, sched]}
evals: [{images: 100}]
"""


OLD = {"backbone": "swin", "dataset": "cars", "schedule": {"kind": "fix"}, "gone": 3}


def config(**fields: Any) -> RunConfig:
    base = {"backbone": "swin", "dataset": "cars", "epochs": 4, "batch": 4}
    return RunConfig.parse(base | {"schedule": "fix", "epsilon_g": "4/255"} | fields)


@pytest.fixture
def small() -> Grid:
    return parse_grid(GRID, Path("small.yaml"))


def finish(run: Run, store: Store, *, factor: float, device: str = "NVIDIA H100 80GB HBM3") -> None:
    """As a finished run leaves it, after `factor` times the shipped estimate."""
    hours = cost.of(H100, store).shipped.hours(run.config, ())
    assert hours is not None
    folder = store.run(run.id)
    write_json(folder.env, {"device": device, "processes": 4, "threads": 1})
    seconds = factor * hours * 3600 / 4
    write_json(folder.result, {"evals": [e.id for e in run.evals], "seconds": seconds})


def test_finished_runs_calibrate_the_estimate(small: Grid, store: Store) -> None:
    runs = [run for run in small.runs if run.config.backbone == "swin"]
    before = cost.of(H100, store)
    assert "no run has finished" in before.basis and before.runs == 0
    sweep = submissions.record_grid(small, store)
    write_jsonl(sweep.manifest, (submissions.manifest_row(run) for run in small.runs))
    for run in runs:
        finish(run, store, factor=2.0)
    after = cost.of(H100, store)
    assert after.runs == 2 and "as in 2 runs here (swin)" in after.basis
    for run in small.runs:  # of r50 nothing is known but that this machine is slower
        was, now = (each.hours(run.config, run.evals) for each in (before, after))
        assert was and now == pytest.approx(2 * was)
    assert cost.of(A100, store).runs == 0, "those were other GPUs"
    write_jsonl(sweep.manifest, [{**submissions.manifest_row(runs[0]), "config": OLD}])
    assert cost.of(H100, store).runs == 0, "a run of a version with other fields tells nothing"


def test_no_more_finished_runs_are_read_than_the_backbones_need(
    small: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "TOGETHER", 1)
    sweep = submissions.record_grid(small, store)
    sweep.manifest.write_text(sweep.manifest.read_text() + "not JSON\n")
    for run in small.runs:
        finish(run, store, factor=1.0)

    def count(*backbones: str) -> int:
        return cost.of(H100, store, backbones=backbones).runs

    assert count() == count("swin") == 4
    for most in ("SAMPLE", "TRIED"):
        with monkeypatch.context() as patched:
            patched.setattr(finished, most, 1)
            assert (count("swin"), count("r50"), count()) == (1, 2, 2)
    with monkeypatch.context() as patched:  # those that ran on another device
        patched.setattr(finished, "TRIED", 2)
        finish(small.runs[0], store, factor=1.0, device="NVIDIA A100-SXM4-80GB")
        assert (count("swin"), count("r50")) == (1, 3)


def test_the_plan_is_compared_with_what_was_spent(small: Grid, store: Store) -> None:
    """Planned by the shipped constant, which is what was said before anything ran."""
    model = cost.of(H100, store)
    hours = [model.hours(run.config, run.evals) or 0 for run in small.runs]
    states = [State.DONE, State.DONE, State.NEW, State.NEW]
    spent = [1.5 * 3600 * each for each in hours[:2]] + [0, 0]
    seen = Plan(
        [
            Status(run, state, gpu_seconds=seconds, seconds=seconds, share=float(seconds > 0))
            for run, state, seconds in zip(small.runs, states, spent, strict=True)
        ]
    )
    found = budget.hours(seen, model)
    assert found.spent == pytest.approx(1.5 * sum(hours[:2]))
    assert found.left == pytest.approx(1.5 * sum(hours[2:]))
    assert "2 finished runs: " in found.lines[1] and found.lines[1].endswith("spent (+50%)")
    elsewhere = budget.hours(seen, replace(model, device="CPU"))  # looked at without a GPU
    assert elsewhere.planned == 0 and elsewhere.left == found.left and len(elsewhere.lines) == 1
    begun = Plan([Status(small.runs[0], State.RUNNING, gpu_seconds=9.0, seconds=9.0)])
    assert budget.hours(begun, replace(model, device="CPU")).left is None
    fresh = budget.hours(Plan([Status(run, State.NEW) for run in small.runs]), model)
    assert fresh.left == pytest.approx(sum(hours)) and len(fresh.lines) == 1
    assert "GPU-minutes left, at 32 TFLOP/s per H100" in fresh.lines[0]


def test_on_cpus_all_hours_are_those_of_cores(
    small: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a run has finished, and recorded how many cores it used."""
    monkeypatch.setattr(cost, "find_device", lambda *_: "CPU")
    done, running = (
        Status(small.runs[0], State.DONE, seconds=3600.0),
        Status(small.runs[1], State.RUNNING, seconds=1800.0, share=0.5, phase="train"),
    )
    seen = Plan([done, running])
    before = budget.hours(seen, cost.of(H100, store))
    assert before.unit == "hours of runs" and before.lines[0].startswith("1.5 hours of runs spent")
    sweep = submissions.record_grid(small, store)
    write_jsonl(sweep.manifest, (submissions.manifest_row(run) for run in small.runs))
    finish(small.runs[0], store, factor=1.0)
    write_json(store.run(small.runs[0].id).env, {"device": "EPYC", "processes": 1, "threads": 4})
    after = budget.hours(seen, cost.of(H100, store))
    assert after.lines[0].startswith("6 core-hours spent, about ")
    assert "core-hours left" in after.lines[0] and after.lines[1].endswith("with 4 cores as now")


def test_a_trained_run_has_its_evaluation_left(store: Store) -> None:
    """AutoAttack takes several times the training: at the end of that, most is still to come."""
    model, grid = cost.of(H100, store), load_grid("autoattack")
    hours = [model.hours(run.config, run.evals) or 0 for run in grid.runs]
    trained = model.hours(grid.runs[0].config, ()) or 0
    assert trained < hours[0] / 4
    for share in (0.0, 0.5):
        spent = trained + share * (hours[0] - trained)
        begun = {"phase": "evaluate", "share": share, "gpu_seconds": 3600 * spent}
        seen = [Status(grid.runs[0], State.RUNNING, **begun)]
        seen += [Status(run, State.NEW) for run in grid.runs[1:]]
        assert budget.hours(Plan(seen), model).left == pytest.approx(sum(hours) - spent)


def test_a_backbone_of_unknown_operations_is_timed(small: Grid, store: Store) -> None:
    """Its speed says nothing of other backbones, and theirs nothing of it."""
    own, other = config(backbone="resnet18"), config()
    run = replace(small.runs[0], id=own.id, config=own)
    sweep = submissions.record_grid(small, store)
    write_jsonl(sweep.manifest, [submissions.manifest_row(run)])
    assert cost.of(H100, store).hours(own, ()) is None
    folder = store.run(own.id)
    write_json(folder.env, {"device": "NVIDIA H100 80GB HBM3", "processes": 1, "threads": 1})
    write_json(folder.result, {"evals": [], "seconds": 7200.0})
    model = cost.of(H100, store)
    assert model.basis == "as in 1 run here (resnet18)"
    assert model.hours(own, ()) == pytest.approx(2.0)
    assert model.hours(config(backbone="resnet18", epochs=8), ()) == pytest.approx(4.0)
    assert model.hours(other, ()) == model.shipped.hours(other, ())
    begun = [Status(run, State.RUNNING, share=0.5, phase="train", gpu_seconds=10.0)]
    told = budget.hours(Plan([*begun, Status(replace(run, config=other), State.NEW)]), model)
    mine, its = (model.hours(each, run.evals) or 0 for each in (own, other))
    assert told.left == pytest.approx((1 - 0.9 * 0.5) * mine + its) and mine > 2

"""Estimates of cost: operations against torch's own counter, speeds against finished runs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.config import EvalConfig, RunConfig
from core.data.corruptions import CORRUPTIONS
from core.data.drawn import SIZES
from core.store.folders import Store
from core.store.json_files import write_json
from slurm.profile import Profile, read_profile
from sweep import summary
from sweep.estimate import cost, device, passes
from sweep.grid import Grid, load_grid, parse_grid
from sweep.grid.search import Search
from sweep.state.plan import Plan, State, Status
from sweep.tune import winners

SPLITS = {"train": 10, "val": 4, "test": 6}


def config(**fields: Any) -> RunConfig:
    base = {"backbone": "swin", "dataset": "cars", "epochs": 4, "batch": 4}
    return RunConfig.parse(base | {"schedule": "fix", "epsilon_g": "4/255"} | fields)


def fit(**fields: Any) -> float:
    """Passes of training alone, per image of the 8 that fill a batch."""
    run = config(validation={"steps": 1, "images": 1}, **fields)
    broken = (passes.UNATTACKED if fields.get("schedule") == "standard" else passes.ATTACKED)[0]
    validation = run.epochs * (4 + 2 + broken * 2)
    return (passes.count_passes(run, (), SPLITS).fit - validation) / 8


def test_passes_of_a_training_step() -> None:
    assert fit(schedule="standard") == 4 * 3
    assert fit() == 4 * (3 + 2 * 7 + 1)
    assert fit(attack={"steps": 1}) == 4 * (3 + 3)
    assert fit(schedule={"T1": 2, "T2": 2}) == 4 * 3 + 2 * 15
    assert fit(objective={"kind": "trades"}) == 4 * (6 + 15)
    assert fit(objective={"kind": "autolora"}) == 4 * (6 + 15), "two of its clean half, one a look"
    assert fit(protocol="linear") == 4 * (1 + 15)
    assert fit(protocol="lora") == 4 * (2 + 15)
    assert fit(schedule="auto", epochs=8) == 8 * 3 + 2 * 15, "none up to epoch 5, its patience"


def test_an_evaluation_grows_with_what_it_asks_for() -> None:
    def evaluate(**fields: Any) -> float:
        return passes.count_passes(config(), [EvalConfig.parse(fields)], SPLITS).evaluate

    plain = evaluate()
    assert evaluate(split="val") == pytest.approx(plain * 4 / 6)
    assert evaluate(images=3) == pytest.approx(plain / 2)
    assert evaluate(mode="fast") == pytest.approx(plain / 6 + plain), "few images are all audited"
    assert evaluate(steps=20) > 1.8 * plain
    assert evaluate(attack="autoattack") > 100 * plain
    assert evaluate(attack="corruptions") == 6
    assert evaluate(attack="corruptions", per_image="all") == 6 * len(CORRUPTIONS)


def test_drawn_datasets_have_these_sizes() -> None:
    assert {name: passes.DRAWN[name] for name in SIZES} == SIZES


@pytest.mark.parametrize(
    ("fields", "within"),
    [
        ({"schedule": "standard"}, 0.05),
        ({"schedule": "fix"}, 0.05),
        ({"schedule": {"T1": 1, "T2": 1}}, 0.05),
        ({"schedule": "fix", "objective": {"kind": "trades"}}, 0.05),
        ({"schedule": "fix", "protocol": "linear"}, 0.05),
        ({"schedule": "fix", "protocol": "lora"}, 0.1),
    ],
)
def test_operations_are_those_that_torch_counts(
    fields: dict[str, Any], within: float, store: Store
) -> None:
    """A whole training, validation left out, under torch's counter."""
    import tiny
    import torch

    from core.model import network
    from core.training.step import Threat
    from core.training.trainer import Trainer

    run = tiny.config(backbone="mini_resnet", image_size=64, epochs=2, batch=2, **fields)
    data = tiny.Dataset("x", 10, *(tiny.noise(n, size=64) for n in (4, 2, 2)))
    trainer = Trainer(run, data, network.build(run, 10, store), store.run("x"), device=tiny.CPU)
    with operations() as forward, torch.no_grad():
        trainer.model.eval()(torch.zeros(1, 3, 64, 64))
    with operations() as counted:
        for epoch in range(run.epochs):
            epsilon = float(trainer.schedule.alpha(epoch) * run.epsilon_g.number)
            trainer._train(epoch, Threat(4, tiny.CPU, epsilon=epsilon))
    sizes = {"train": 4, "val": 0, "test": 0}
    expected = passes.count_passes(run, (), sizes).fit
    assert sum(counted) / sum(forward) == pytest.approx(expected, rel=within)


@contextmanager
def operations() -> Iterator[list[int]]:
    """Those of every convolution and matrix product, forward and backward, as they happen."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    found: list[int] = []

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            count = flop_registry.get(func._overloadpacket)
            if count:
                found.append(count(*args, **(kwargs or {}), out_val=out))
            return out

    with Counter():
        yield found


H100 = read_profile("gpu")


def named(gpu: str) -> Profile:
    slurm = H100.slurm.model_copy(update={"slurm_gpus_per_node": f"{gpu}:1"})
    return H100.model_copy(update={"slurm": slurm})


def test_the_paper_took_what_the_shipped_constant_says(store: Store) -> None:
    """15 to 60 minutes on four GPUs are 1 to 4 GPU-hours; the constant puts the mean at 2."""
    runs = [run for run in load_grid("epsilon_scheduling").runs if run.setting != "standard"]
    total = cost.of(H100, store).total(runs).hours
    assert total is not None and 1.9 < total / len(runs) < 2.1


@pytest.mark.parametrize("file", sorted(Path("grids").glob("*.yaml")), ids=lambda f: str(f.stem))
def test_a_grid_says_what_the_model_says(file: Path, store: Store) -> None:
    grid = load_grid(file)
    estimate = cost.of(H100, store).total(grid.runs)
    said = grid.about.get("gpu_hours")
    if said is None:
        assert all(passes.gflops(run.config)[0] < 0.5 for run in grid.runs)
    else:
        assert said == pytest.approx(estimate.known, rel=0.01, abs=0.5)
        text = file.read_text()
        assert f"# GPU-hours: about {said}" in text
        assert not estimate.unknown or f"{estimate.unknown} runs" in text
    tuned = winners.apply(grid, store)
    if tuned.searches:
        hours = cost.of(H100, store).searching(tuned.searches).known
        assert hours and f"about {hours:.0f} for the searches" in file.read_text()


def test_hours_by_phase(store: Store) -> None:
    """Their sum is that of the runs, and most of the guide's go into its three ensembles."""
    grid, model = load_grid("guide"), cost.of(H100, store)
    found = model.as_dict(grid.runs)["phases"]
    assert list(found) == ["training", "search", "autoattack", "corruptions"]
    total = model.total(grid.runs)
    assert sum(hours["known"] for hours in found.values()) == pytest.approx(total.known)
    assert found["search"] == {"hours": 0, "known": 0, "unknown": 0}, "every run takes a draw"
    assert found["training"]["unknown"] == found["autoattack"]["unknown"] == total.unknown == 36
    assert found["autoattack"]["known"] > 2 * found["training"]["known"] > 1000
    tuned = winners.apply(load_grid("guide_tuned"), store)

    def phases(of: Grid) -> str:
        told, few = io.StringIO(), replace(of, runs=of.runs[:6])
        seen = Plan([Status(run, State.NEW) for run in few.runs])
        Console(file=told, width=200).print(summary.of(few, seen, model))
        (line,) = [line for line in told.getvalue().splitlines() if "by phase" in line]
        return line

    before = model.searching(tuned.searches).known
    assert f"search {before:,.0f}, autoattack" in phases(tuned) and "training " in phases(tuned)
    assert "search" not in phases(grid), "a phase without hours is left out"


def test_a_search_costs_what_its_budget_says(store: Store) -> None:
    def search(**budget: Any) -> Search:
        plain = {"ranges": {}, "goal": "clean", "grace": 1, "reduction": 3, "minutes": None}
        every = {**plain, "trials": 9, "folder": store.root / "tuned"} | budget
        return Search(config(epochs=9), **every)

    # Of 9 trials, 9 make epoch 1, 3 go on to epoch 3 and 1 to epoch 9.
    assert 9 * search().epochs == pytest.approx(9 * 1 + 3 * 2 + 1 * 6)
    assert search(grace=9).epochs == search(grace=99).epochs == 9, "none is stopped early"
    model = cost.of(H100, store)
    whole = model.hours(search().config, ())
    assert whole and model.searching([search(grace=9)]).hours == pytest.approx(9 * whole)
    assert model.searching([search()]).hours == pytest.approx(21 / 9 * whole)
    assert model.searching([search(minutes=6.0)] * 2).hours == pytest.approx(0.2)
    write_json(search().winner_file, {"trials": 9})
    assert model.searching([search()]).hours == 0, "it is through"


def test_the_gpu_is_the_profiles_else_the_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    local = read_profile("local")
    assert device.find_device(named("a100"), "H100") == "A100"
    assert device.find_device(read_profile("alliance"), "") == "H100"
    assert device.find_device(H100, "") == "H100"
    assert device.find_device(H100, "1 x V100") == "V100"
    monkeypatch.setattr(device, "_local_gpu", lambda: "")
    assert device.find_device(local, "2 CPU cores") == "CPU"
    assert device.find_device(local, "H100") == "H100"
    monkeypatch.setattr(device, "_local_gpu", lambda: "NVIDIA H200")
    assert device.find_device(local, "H100") == "H200"
    monkeypatch.setattr(device, "_local_gpu", lambda: "NVIDIA GeForce RTX 3060")
    assert device.find_device(local, "") == "NVIDIA GeForce RTX 3060"


def test_bf16_and_unknown_gpus_are_told_apart(store: Store) -> None:
    model = cost.Cost("H100", store, 32.0, {"swin in bf16": 96.0}, 1)
    plain, fast = config(), config(precision="bf16")
    assert (model.hours(plain, ()) or 0) == pytest.approx(3 * (model.hours(fast, ()) or 0))
    other = cost.Cost(
        "NVIDIA GeForce RTX 3060", store, device.shipped_speed("NVIDIA GeForce RTX 3060")
    )
    assert other.basis.startswith("as if NVIDIA GeForce RTX 3060 were an H100")


def test_what_is_not_known_is_not_guessed(store: Store, tmp_path: Path) -> None:
    model = cost.of(H100, store)
    assert model.hours(config(backbone="resnet18"), ()) is None
    assert model.hours(config(dataset=str(tmp_path / "nothing")), ()) is None
    assert model.hours(config(backbone="mini_resnet", image_size=32), ()) is None, "all overhead"
    folder = tmp_path / "images"
    for split, count in SPLITS.items():
        for number in range(count):
            (folder / split / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            (folder / split / "ab"[number % 2] / f"{number}.jpg").touch()
    assert model.sizes(str(folder)) == SPLITS


def test_runs_that_cost_the_same_are_worked_out_once(store: Store) -> None:
    """1,440 runs are 10 computations: planning must not wait for the estimate."""
    axes = {
        "backbone": ["vit", "swin", "cnx", "r50", "clipvit", "clipcnx"],
        "dataset": ["aircraft", "caltech256", "cars", "cub", "dogs"],
        "epsilon_g": [f"{k}/255" for k in range(1, 9)],
        "schedule": ["fix", "sched"],
    }
    text = json.dumps({"name": "x", "grid": axes, "seeds": [0, 1, 2]})
    runs = parse_grid(text, Path("x.yaml")).runs
    model = cost.of(H100, store)
    assert len(runs) == 1440 and model.total(runs).hours
    assert len(model._alike) == 10

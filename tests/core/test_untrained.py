"""`schedule: none`: networks judged as their files have them, head and all, without training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from grid_text import parse
from whole_run import assert_keeps_its_promise, execute, flags

from core.config import ConfigError, RobustAccuracy, RunConfig, own_code
from core.config.evaluation_kinds import MinimalNorm
from core.data import splits
from core.model.pretrained import load_weights
from core.store import damage
from core.store.folders import Store
from core.store.json_files import read_json

ROBUST = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.equalInOut = True
    def forward(self, x):
        return x + self.conv1(self.bn1(x).relu())

class WideResNet(nn.Module):
    def __init__(self, classes=8):
        super().__init__()
        self.mu = torch.tensor([.4914, .4822, .4465]).view(1, 3, 1, 1)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(Block(8), Block(8))
        self.bn1, self.fc = nn.BatchNorm2d(8), nn.Linear(8, classes)
    def forward(self, x):
        x = self.block1(self.conv1(x - self.mu))
        return self.fc(self.bn1(x).relu().mean((2, 3)))
"""
"""In the style of the CIFAR networks of RobustBench: 32 pixels, the normalisation within, `fc`."""
ASKED = RobustAccuracy(epsilons=("0", "1/255", "8/255"), steps=2)
MARGINS = MinimalNorm(epsilons=("0",), steps=1, margins=True)
CLASSES = 10


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "robust.py").write_text(ROBUST)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("robust", None)
    own_code._imported.clear()


def network() -> Any:
    torch.manual_seed(5)
    net = own_code.load("robust:WideResNet")(CLASSES).train()
    net(torch.rand(64, 3, 32, 32))  # statistics that are not those of a new network
    return net.eval()


def judged(weights: str = "robust.pt", **fields: Any) -> RunConfig:
    data = {"dataset": "fake", "image_size": 32, "schedule": "none"} | fields
    return RunConfig.parse({"backbone": "robust:WideResNet", "weights": weights} | data).with_code()


def save(store: Store, content: Any) -> None:
    store.weights.mkdir(parents=True)
    torch.save(content, store.weights / "robust.pt")


@pytest.mark.parametrize("wrapped", ["plain", "parallel"])
def test_a_checkpoint_is_judged_with_its_own_head(store: Store, wrapped: str) -> None:
    net = network()
    state = net.state_dict() | {"sigma": torch.ones(3)}  # which this network has no buffer for
    parallel = {"epoch": 9, "state_dict": {f"module.{key}": v for key, v in state.items()}}
    save(store, state if wrapped == "plain" else parallel)
    config = judged()
    result = execute(store, config, [ASKED], images=None)
    split = splits.load(config, store).test
    x, y = split.batch(torch.arange(len(split)), tiny.CPU)
    with torch.no_grad():
        right = int((net(x).argmax(1) == y).sum())
    record = read_json(store.run(config.id).eval_json(ASKED.id))
    assert record is not None and record["rows"][0]["correct"] == right
    assert 0 < right < len(split)
    assert (result["epochs"], result["setting"], result["delay"]) == (0, "none", 0)
    assert assert_keeps_its_promise(store.run(config.id))
    assert damage.find(store.run(config.id)) == []
    again = execute(store, config, [ASKED, MARGINS], images=None)
    assert {*again["evals"]} == {ASKED.id, MARGINS.id}
    found = flags(store.run(config.id), MARGINS)
    assert found["correct"].sum() == right and (found["feature_margin"] > 0).all()


def test_statistics_of_the_input_may_be_in_the_file_or_not(tmp_path: Path) -> None:
    """RobustBench's own networks have them as buffers, and most of its files lack these."""
    (tmp_path / "robust.py").write_text(
        ROBUST.replace("self.mu = ", "self.register_buffer('mu', ").replace(
            "(1, 3, 1, 1)", "(1, 3, 1, 1))"
        )
    )
    net = network()
    whole = net.state_dict()
    assert "mu" in whole
    file, mean = tmp_path / "robust.pt", torch.full((1, 3, 1, 1), 0.25)
    for content, expected, told in (
        ({k: v for k, v in whole.items() if k != "mu"}, net.mu, "kept as made: mu"),
        (whole | {"mu": mean}, mean, "of the network, with its head, from"),
    ):
        torch.save({"state_dict": {f"module.{k}": v for k, v in content.items()}}, file)
        other = own_code.load("robust:WideResNet")(CLASSES)
        assert told in load_weights(other, file, head=True)
        assert torch.equal(other.mu, expected) and torch.equal(other.fc.weight, net.fc.weight)


def test_a_finished_run_judged_again_has_the_numbers_of_the_run(store: Store) -> None:
    trained = tiny.config(precision="fp32")
    execute(store, trained, [ASKED])
    file = str(store.run(trained.id).checkpoint)
    config = RunConfig.parse(
        {name: getattr(trained, name) for name in ("backbone", "dataset", "image_size")}
        | {"weights": file, "schedule": "none"}
    )
    execute(store, config, [ASKED])
    first, second = (flags(store.run(one.id), ASKED) for one in (trained, config))
    assert np.array_equal(first["critical"], second["critical"])


def test_what_only_training_uses_makes_no_other_run() -> None:
    plain = judged("x.pt")
    fields = {"batch": 7, "seed": 3, "epochs": 90, "optim": {"lr": 1.0}, "protocol": "linear"}
    other = judged("x.pt", **fields, norm="l2", epsilon_g="0.5", validation={"epsilon": "0.5"})
    assert other == plain and other.id == plain.id
    assert plain.delta.keys() == {*("backbone", "weights", "dataset", "image_size"), "epochs"} | {
        *("schedule", "epsilon_g", "code")
    }
    assert judged("x.pt", schedule={"kind": "none", "name": "as given"}) == plain
    assert RunConfig.parse(plain.to_dict()) == plain
    text = """
name: g
base: {backbone: vit, weights: x.pt, dataset: fake, epochs: 4}
grid:
  schedule: [none, fix]
  optim.lr: [1e-3, 1e-4]
seeds: [0, 1]
"""
    grid = parse(text)
    assert [run.setting for run in grid.runs].count("none") == 1
    assert len(grid.runs) == 5 and grid.runs[0].config.epochs == 0
    assert grid.runs[0].config == RunConfig.parse(grid.runs[0].config.to_dict())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"weights": "random"}, "weights: schedule none evaluates a network with the head"),
        ({"schedule": "fix", "epochs": 0}, "epochs: expected at least 1, got 0; to evaluate a"),
        ({"schedule": {"kind": "none", "T1": 2}}, "T1 and T2 belong to kind: two_hinge"),
    ],
)
def test_what_does_not_go_together(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        judged(**fields)
    assert len(caught.value.lines) == 1 and told in caught.value.lines[0]


def test_nothing_is_searched_if_nothing_is_trained() -> None:
    text = "name: g\nbase: {backbone: vit, dataset: fake}\ngrid:\n  schedule: [none, fix]\n"
    with pytest.raises(ConfigError, match="tune: schedule none trains nothing") as caught:
        parse(text + "tune: {trials: 2}\n")
    assert len(caught.value.lines) == 1


def test_a_grid_of_networks_without_a_file_is_refused_at_its_line() -> None:
    text = "name: g\nbase: {backbone: vit, dataset: fake}\ngrid:\n  schedule: [none]\n"
    with pytest.raises(ConfigError, match="weights: schedule none evaluates"):
        parse(text + "  weights: [random]\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {k: v for k, v in s.items() if "fc" not in k}, "fc.weight, fc.bias missing"),
        (lambda s: s | {"fc.weight": torch.zeros(3, 8), "fc.bias": torch.zeros(3)}, "fc.weight"),
        (lambda s: s | {"fc.bias": torch.full((CLASSES,), torch.nan)}, "'fc.bias' has NaN"),
    ],
)
def test_heads_that_do_not_fit_are_one_line(store: Store, change: Any, told: str) -> None:
    save(store, change(network().state_dict()))
    with pytest.raises(ConfigError, match=told) as caught:
        execute(store, judged(), [ASKED])
    assert len(caught.value.lines) == 1

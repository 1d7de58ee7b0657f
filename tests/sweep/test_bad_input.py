"""What a user can get wrong about attacks, protocols and images: one line each, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from core.attack.apgd import run_apgd
from core.config import ConfigError, EvalConfig, RunConfig
from core.data.splits import Split
from core.evaluation.queue import search
from core.model import trainable
from sweep.grid import parse_grid

BASE = "name: x\nbase: {dataset: cars}\ngrid: {backbone: [swin]}\n"

IN_A_GRID = [
    (
        "evals:\n- epsilons: [0, 2/255, 1/255]",
        "5: evals: epsilons: expected ascending strengths that begin with 0, got '0, 2/255, 1/255'",
    ),
    ("evals:\n- epsilons: [0, 2]", "5: evals: epsilons.1: a strength lies in [0, 1], got 2"),
    ("evals:\n- epsilons: 0..256/255", "5: evals: epsilons.256: a strength lies in [0, 1], got"),
    ("evals:\n- {norm: l3}", "5: evals: norm: input should be 'linf', 'l2' or 'l1', got 'l3'"),
    ("evals:\n- steps: 0", "5: evals: steps: input should be greater than or equal to 1, got 0"),
]
IN_A_BASE = [
    ("attack.steps: 0", "attack.steps: input should be greater than or equal to 1, got 0"),
    ("norm: l3", "norm: input should be 'linf', 'l2' or 'l1', got 'l3'"),
    ("epsilon_g: 2", "epsilon_g: a strength lies in [0, 1], got 2, did you mean 2/255?"),
    ("protocol: lara", "protocol: input should be 'full', 'linear' or 'lora', got 'lara'"),
    ("lora: {rnk: 3}", "lora.rnk: unknown field, did you mean 'lora.rank'?"),
]


def one_line(text: str, tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        parse_grid(text, tmp_path / "x.yaml")
    (line,) = error.value.lines
    return line.removeprefix(f"{tmp_path}/x.yaml:")


@pytest.mark.parametrize(("text", "told"), IN_A_GRID)
def test_an_evaluation_in_a_grid(tmp_path: Path, text: str, told: str) -> None:
    assert one_line(BASE + text, tmp_path).startswith(told)


@pytest.mark.parametrize(("text", "told"), IN_A_BASE)
def test_a_field_in_a_grid(tmp_path: Path, text: str, told: str) -> None:
    key, _, value = text.partition(": ")
    whole = f'name: x\nbase:\n  dataset: cars\n  "{key}": {value}\ngrid: {{backbone: [swin]}}\n'
    assert one_line(whole, tmp_path).startswith(f"4: {told}")


def test_lora_on_a_model_without_targets_in_a_grid(tmp_path: Path) -> None:
    text = "name: x\nbase: {dataset: cars, protocol: lora}\ngrid: {backbone: [resnet18.a1_in1k]}\n"
    line = one_line(text, tmp_path)
    assert "no target modules are known for 'resnet18.a1_in1k'" in line
    assert "e.g. lora.targets: [attn.qkv, attn.proj]" in line


@pytest.mark.parametrize("protocol", ["linear", "lora"])
def test_a_protocol_that_needs_a_head_without_one(protocol: str) -> None:
    run = tiny.config(protocol=protocol, lora={"targets": ["conv"]})
    with pytest.raises(
        ConfigError, match=rf"which of its modules is the head.*protocol {protocol}, "
    ):
        trainable.prepare(tiny.net(), run)


def images(**changes: Any) -> dict[str, Any]:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"x": x, "y": torch.tensor([0, 1]), "epsilon": 0.1, "steps": 2} | changes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": torch.full((1, 3, 8, 8), 255.0)}, r"images in \[0, 1\] .* from 255 to 255"),
        ({"x": torch.full((1, 3, 8, 8), -0.1)}, r"got pixels from -0.1 to -0.1"),
        ({"x": torch.full((1, 3, 8, 8), float("nan"))}, r"got pixels from nan to nan"),
        ({"steps": 0}, "attack: expected at least 1 step, got 0"),
        ({"norm": "l0"}, "norm 'l0': APGD has no such threat model"),
        ({"norm": "linff"}, "did you mean 'linf'?"),
    ],
)
def test_an_attack(changes: dict[str, Any], told: str) -> None:
    given = images(**changes)
    given["y"] = given["y"][: len(given["x"])]
    with pytest.raises(ConfigError, match=told) as error:
        run_apgd(tiny.net(), **given)
    assert len(error.value.lines) == 1


def test_an_evaluation_in_an_unknown_norm() -> None:
    with pytest.raises(ConfigError, match="norm 'l0'"):
        search(tiny.net(), tiny.noise(4), [0, 0.1], steps=1, batch=2, device=tiny.CPU, norm="l0")


def test_images_that_are_not_pixels() -> None:
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ConfigError, match=r"expected uint8 \[N, 3, H, W\], got float32 \[2, 3,"):
        Split(torch.randn(2, 3, 8, 8), labels)
    with pytest.raises(ConfigError, match=r"got uint8 \[3, 8, 8\]"):
        Split(torch.zeros(3, 8, 8, dtype=torch.uint8), labels)
    with pytest.raises(ConfigError, match="labels: expected 2, got 1"):
        Split(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), labels[:1])


def test_the_right_ones_are_taken() -> None:
    """The tests above refuse for their reason alone."""
    best, *_ = run_apgd(tiny.net(), **images())
    assert best.shape == (2, 3, 8, 8)
    assert RunConfig.parse({"backbone": "swin", "dataset": "cars", "attack": {"steps": 1}})
    assert EvalConfig.parse({"epsilons": [0, "1/255", 1]}).epsilons[-1].number == 1

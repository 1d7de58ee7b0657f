"""LoRA: adapters on the right modules, trained with the head alone, from the run's own stream."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from core.config import ConfigError, EvalConfig, RunConfig
from core.config.registry import backbones
from core.data import inputs
from core.data.splits import Dataset
from core.model import lora, trainable
from core.model.network import Classifier, build
from core.run.pipeline import Options, execute
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_jsonl
from core.training.trainer import Trainer

TARGETS = {
    "test_vit": ["attn.qkv", "attn.proj"],
    "test_convnext": ["mlp.fc1", "mlp.fc2"],
    "test_resnet": ["conv2", "conv3"],
    "test_efficientnet": ["conv_pw", "conv_pwl"],
}
SIZES = {"test_convnext": 64}


def config(name: str = "test_vit", /, **fields: Any) -> RunConfig:
    given = {"rank": 4, "targets": TARGETS[name]} | fields.pop("lora", {})
    base = {"backbone": name, "protocol": "lora", "lora": given, "image_size": SIZES.get(name, 32)}
    return tiny.config(**base | fields)


def plain(model: Classifier) -> dict[str, torch.Tensor]:
    """Weights under the names they have without adapters."""
    state = {k.replace(".base_layer", ""): v for k, v in model.state_dict().items()}
    return {key: value for key, value in state.items() if ".lora_" not in key}


def trainer(run: RunConfig, store: Store, folder: str = "") -> Trainer:
    place = store.run(f"{run.id}{folder}")
    place.path.mkdir(parents=True, exist_ok=True)
    splits = [tiny.noise(n, size=run.image_size, seed=s) for s, n in enumerate((20, 10, 10))]
    data = Dataset("tiny", 10, *splits)
    return Trainer(run, data, build(run, data.classes, store), place, device=tiny.CPU)


class TestConfig:
    def test_what_is_not_lora_has_no_lora(self) -> None:
        other = tiny.config(lora={"rank": 2, "targets": ["x"]})
        assert other == tiny.config() and other.id == tiny.config().id

    def test_every_number_makes_another_run(self) -> None:
        runs = [config()] + [
            config(lora={key: value})
            for key, value in [("rank", 2), ("alpha", 4), ("dropout", 0.5), ("targets", ["qkv"])]
        ]
        assert len({run.id for run in runs}) == 5
        assert config().id.startswith("test_vit-fake-eps8-lora-fix-s0-")

    def test_the_registrys_targets_need_not_be_named(self) -> None:
        named = {"protocol": "lora", "lora": {"targets": ["attn.proj", "attn.qkv"]}}
        assert tiny.config(backbone="swin", **named).id == (
            tiny.config(backbone="swin", protocol="lora").id
        )

    def test_a_model_without_known_targets_is_one_line(self) -> None:
        with pytest.raises(ConfigError) as error:
            tiny.config(backbone="resnet18.a1_in1k", protocol="lora")
        assert error.value.lines == (
            "config: lora.targets: no target modules are known for 'resnet18.a1_in1k', name some "
            "of its linear layers or convolutions, e.g. lora.targets: [attn.qkv, attn.proj]",
        )

    @pytest.mark.parametrize(
        "wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1}, {"targets": [""]}, {"ranks": 8}]
    )
    def test_bad_numbers_are_one_line(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as error:
            config(lora=wrong)
        (line,) = error.value.lines
        assert f"lora.{next(iter(wrong))}" in line


@pytest.mark.parametrize("name", TARGETS)
def test_adapters_start_as_nothing_on_the_targets_alone(store: Store, name: str) -> None:
    run = config(name)
    model = build(run, 7, store).eval()
    without = build(run.model_copy(update={"protocol": "full"}), 7, store).eval()
    state = without.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain(model).items())
    assert plain(model).keys() == state.keys()
    x = torch.rand(2, 3, run.image_size, run.image_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), without(x))
    ends = tuple(f".{target}" for target in TARGETS[name])
    expected = [key for key, _ in without.named_modules() if key.endswith(ends)]
    assert lora.adapted(model) == expected and expected


@pytest.mark.parametrize("name", TARGETS)
def test_training_moves_adapters_and_head_alone(store: Store, name: str) -> None:
    work = trainer(config(name, optim={"lr": 1e-2}), store)
    for module in work.model.modules():
        if isinstance(module, nn.BatchNorm2d):  # residual branches of random weights begin at 0
            nn.init.ones_(module.weight)
    before = {key: value.clone() for key, value in work.model.state_dict().items()}
    work.fit()
    moved = {k for k, v in work.model.state_dict().items() if not torch.equal(v, before[k])}
    heads = trainable.head_names(work.model)
    wanted = {k for k in before if ".lora_" in k or trainable.is_in(k, heads)}
    assert moved == wanted
    held = [p for group in work.step.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(wanted), "BatchNorm statistics would be no parameters"


def test_only_batch_norm_stays_in_evaluation_mode(store: Store) -> None:
    work = trainer(config("test_resnet"), store)
    trainable.train_mode(work.model, work.config)
    kinds = {isinstance(m, nn.BatchNorm2d): m.training for m in work.model.modules()}
    assert kinds == {True: False, False: True}


def test_adapters_come_from_the_seed_alone(store: Store) -> None:
    torch.manual_seed(1)
    one = build(config(seed=3), 5, store).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = build(config(seed=3), 5, store).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = build(config(seed=4), 5, store).state_dict()
    down = [key for key in one if "lora_A" in key]
    assert down and not any(torch.equal(one[key], other[key]) for key in down)


@pytest.mark.parametrize("extra", [{}, {"optim": {"ema": 0.5, "lr": 1e-2}}])
def test_a_resumed_run_ends_bit_for_bit(store: Store, extra: dict[str, Any]) -> None:
    run = config("test_resnet", epochs=3, lora={"dropout": 0.3}, **extra)
    whole = trainer(run, store, "-whole")
    rows = whole.fit()
    first = trainer(run, store)
    first.rows.append(first._epoch(0))
    first._save()
    second = trainer(run, store)
    strip = ("seconds", "images_per_s")
    assert [{k: v for k, v in row.items() if k not in strip} for row in second.fit()] == [
        {k: v for k, v in row.items() if k not in strip} for row in rows
    ]
    expected = whole.evaluated.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in second.evaluated.state_dict().items())


def test_a_run_from_end_to_end_says_what_it_trains(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run, asked = config(image_size=16), EvalConfig.parse({"epsilons": [0, "8/255"], "steps": 2})
    place = store.run(run.id)
    claim = Claim.acquire(place)
    assert claim
    with caplog.at_level(logging.INFO, logger="epsweep"):
        result = execute(run, [asked], store, claim, Options(tracking="none", images=20))
    claim.release("done")
    assert result["evals"] == [asked.id] and len(read_jsonl(place.metrics)) == 2
    names = lora.adapted(build(run, 10, store))
    half = len(names) // 2
    assert (
        f"LoRA of rank 4 on {len(names)} modules: {half} attn.proj, {half} attn.qkv" in caplog.text
    )
    assert "training " in caplog.text and " parameters" in caplog.text


class TestBadInput:
    def refused(self, store: Store, run: RunConfig) -> str:
        with pytest.raises(ConfigError) as error:
            build(run, 5, store)
        (line,) = error.value.lines
        return line

    def test_a_target_that_matches_nothing(self, store: Store) -> None:
        assert self.refused(store, config(lora={"targets": ["attn.qvk"]})) == (
            "lora.targets: 'attn.qvk' is no linear layer or convolution of test_vit, "
            "did you mean 'attn.qkv'?"
        )
        line = self.refused(store, config(lora={"targets": ["zzz"]}))
        assert "(known: " in line and "mlp.fc1" in line

    def test_the_head_is_no_target(self, store: Store) -> None:
        assert "'head' is no linear layer" in self.refused(
            store, config(lora={"targets": ["head"]})
        )

    def test_weights_that_are_read_without_a_call(self, store: Store) -> None:
        """EVA-02 hands the weights of its qkv to a function."""
        run = tiny.config(
            backbone="eva02_tiny_patch14_224",
            image_size=28,
            protocol="lora",
            lora={"targets": ["attn.qkv"]},
        )
        assert "12 attn.qkv without calling these modules" in self.refused(store, run)

    def test_a_rank_that_groups_forbid(self, store: Store) -> None:
        line = self.refused(store, config("test_efficientnet", lora={"targets": ["conv_dw"]}))
        assert line.startswith("lora: test_efficientnet: ")

    def test_without_peft(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        told = "LoRA needs the package peft: pip install 'epsweep[lora]'"
        assert self.refused(store, config()) == told
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
        )
        assert inputs.missing([config()], store) == [told]
        (tmp_path / "peft.py").write_text("from os import nothing")  # newer transformers
        monkeypatch.delitem(sys.modules, "peft")
        monkeypatch.syspath_prepend(tmp_path)
        line = self.refused(store, config())
        assert line.startswith("LoRA needs the package peft: its import fails (cannot import name ")
        assert line.endswith("pip install 'epsweep[lora]' --upgrade")
        assert inputs.missing([tiny.config()], store) == []


@pytest.mark.parametrize("name", [n for n in backbones() if n.startswith("mini_")])
def test_the_demos_networks_have_targets(store: Store, name: str) -> None:
    model = build(tiny.config(backbone=name, protocol="lora", image_size=32), 5, store)
    assert lora.adapted(model)


@pytest.mark.slow
def test_peft_imports_without_a_warning(tmp_path: Path) -> None:
    code = "import torch, core.model.vision, peft"
    root = Path(lora.__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root, timeout=120)

"""AutoLoRa: clean images through adapters, attacked ones through the network without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from core.config import ConfigError, RunConfig
from core.data.splits import Dataset
from core.model import lora, trainable
from core.model.network import Classifier, build
from core.run.trained import export
from core.store.folders import Store
from core.training.objectives import AutoLora
from core.training.trainer import Trainer
from sweep.grid import parse_grid

GOAL = {"kind": "autolora"}


def config(backbone: str = "test_vit", **fields: Any) -> RunConfig:
    targets = {"test_vit": ["attn.qkv", "mlp.fc1"], "test_resnet": ["conv2", "conv3"]}[backbone]
    given = {"objective": GOAL, "lora": {"rank": 4, "targets": targets}, "image_size": 32}
    return tiny.config(backbone=backbone, **given | fields)


def trainer(run: RunConfig, store: Store, name: str) -> Trainer:
    place = store.run(name)
    place.path.mkdir(parents=True)
    data = Dataset("tiny", 10, *(tiny.noise(n, size=32, seed=n) for n in (20, 10, 10)))
    return Trainer(run, data, build(run, 10, store), place, device=tiny.CPU)


def moved(model: Classifier) -> Classifier:
    """With adapters that do something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    return model.eval()


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    x, y = tiny.noise(6, size=32).batch(torch.arange(6), tiny.CPU)
    return x, (x + 0.05 * torch.randn(x.shape, generator=torch.manual_seed(0))).clamp(0, 1), y


def test_the_loss_is_its_formula_and_each_branch_trains_its_own(
    store: Store, images: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, adv, y = images
    model, loss = moved(build(config(), 10, store)), AutoLora()
    plain = build(config(objective={}, lora={}), 10, store).eval()
    assert torch.equal(model(x), plain(x)), "outside of its branch a network has no adapters"
    assert torch.equal(loss.loss_sum(model, x, x, y), F.cross_entropy(plain(x), y, reduction="sum"))
    assert loss.begin_epoch(model, lambda: 0.25) == {"branch_accuracy": 0.25}
    with lora.branch(model), torch.no_grad():
        clean = model(x)
    assert not torch.allclose(clean, model(x))
    p, q = clean.log_softmax(1), plain(adv).log_softmax(1)
    expected = 0.75 * F.nll_loss(p, y) + 0.25 * F.nll_loss(q, y)
    expected = expected + 6 * 0.25 * (p.exp() * (p - q)).sum(1).mean()
    total = loss.loss_sum(model, x, adv, y)
    torch.testing.assert_close(total, 6 * expected)
    total.backward()
    own = {name: p.grad for name, p in plain.named_parameters()}
    assert all(gradient is None for gradient in own.values())
    # KL and CE of the attacked ones are all that the network gets, its head aside.
    logits = plain(adv)
    by_hand = 0.25 * F.cross_entropy(logits, y, reduction="sum") + 6 * 0.25 * F.kl_div(
        logits.log_softmax(1), p, reduction="sum", log_target=True
    )
    by_hand.backward()
    heads = trainable.head_names(plain)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad and parameter.grad is not None
        if ".lora_" not in name and not trainable.is_in(name, heads):
            gradient = plain.get_parameter(name.replace(".base_layer", "")).grad
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_a_resumed_run_ends_bit_for_bit_without_its_adapters(
    store: Store, tmp_path: Path, backbone: str
) -> None:
    optim = {"lr": 1e-3, "ema": 0.5}
    run = config(backbone, epochs=3, schedule={"T1": 1, "T2": 1}, optim=optim)
    whole, first = trainer(run, store, run.id), trainer(run, store, "other")
    rows = whole.fit()
    assert "branch_accuracy" not in rows[0] and all(
        0 <= r["branch_accuracy"] <= 1 for r in rows[1:]
    )
    for epoch in range(2):
        first.rows.append(first._epoch(epoch))
    first._save()
    second = Trainer(run, first.data, build(run, 10, store), first.run, device=tiny.CPU)
    assert tiny.repeatable(second.fit()) == tiny.repeatable(rows)
    expected = whole.state()
    for part in ("model", "average"):
        assert all(torch.equal(v, expected[part][k]) for k, v in second.state()[part].items())
    whole.finish()
    whole.run.write_config(run.to_dict())
    export(whole.run, store, tmp_path / "out")
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert not [name for name in weights if "lora" in name or "base_layer" in name]
    plain = build(config(backbone, objective={}, lora={}), 10, store)
    plain.net.load_state_dict(weights)
    x = torch.rand(2, 3, 32, 32, generator=torch.manual_seed(0))
    assert torch.equal(plain.eval()(x), whole.evaluated.eval()(x))


def test_what_a_run_does_not_use_makes_no_other_run() -> None:
    plain = tiny.config(backbone="swin", image_size=224)
    run = tiny.config(backbone="swin", image_size=224, objective=GOAL)
    assert run.id != plain.id and run.adapted and run.objective.kind == "autolora"
    assert run.id == tiny.config(backbone="swin", image_size=224, objective=GOAL | {"beta": 9}).id
    assert run.id != tiny.config(**run.to_dict() | {"lora": {"rank": 2}}).id
    unattacked = {"schedule": "standard", "lora": {"rank": 2}}
    assert config(**unattacked).id == config(**unattacked, objective={}).id


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"protocol": "lora"},
            "protocol: autolora trains the whole network, with adapters beside it, expected full, "
            "got lora",
        ),
        ({"backbone": "resnet18.a1_in1k", "lora": {}}, "lora.targets: no target modules are known"),
    ],
)
def test_what_cannot_be_trained_so_is_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        tiny.config(**{"objective": GOAL, "backbone": "swin"} | fields)
    (said,) = error.value.lines
    assert line in said


def test_a_grid_has_it_beside_others_with_the_adapters_that_base_names() -> None:
    text = """
name: x
base: {dataset: fake, lora.rank: 3, backbone: vit}
grid: {objective: [{kind: at}, {kind: autolora}], schedule: [standard, fix], lora.alpha: [1, 2]}
"""
    runs = [run.config for run in parse_grid(text, Path("x.yaml")).runs]
    assert [(r.setting, r.objective.kind, r.lora.rank, r.lora.alpha) for r in runs] == [
        ("standard", "at", 8, 16),
        ("fix", "at", 8, 16),
        ("fix", "autolora", 3, 1),
        ("fix", "autolora", 3, 2),
    ]
    assert [RunConfig.parse(run.to_dict()).id for run in runs] == [run.id for run in runs]

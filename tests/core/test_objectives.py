"""TRADES against its formula; head and backbone: learning rates, weight decay, what is frozen."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import ConfigError, Objective, RunConfig
from core.model import network, trainable
from core.store.folders import Store
from core.training.objectives import make
from core.training.rate import learning_rate
from core.training.trainer import Trainer

TRADES = Objective(kind="trades", beta=3.0)


class Modes(nn.Module):
    """Remembers what it was asked, and in which mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[tuple[Tensor, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x, self.training))
        logits: Tensor = self.inner(x)
        return logits


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    x, y = tiny.noise(6, seed=seed).batch(torch.arange(6), tiny.CPU)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) / 20
    return x, (x + noise).clamp(0, 1), y


def test_trades_is_its_formula_image_by_image() -> None:
    x, adv, y = batch()
    model = tiny.net(norm="group").double().train()
    with torch.no_grad():
        total = float(make(TRADES).loss_sum(model, x.double(), adv.double(), y))
        p, q = model(x.double()).softmax(1), model(adv.double()).softmax(1)
    expected = 0.0
    for clean, attacked, label in zip(p.tolist(), q.tolist(), y.tolist(), strict=True):
        drift = sum(a * math.log(a / b) for a, b in zip(clean, attacked, strict=True))
        expected += 3.0 * drift - math.log(clean[label])
    assert total == pytest.approx(expected, rel=1e-5)


def test_trades_trains_both_branches_in_training_mode() -> None:
    x, adv, y = batch()
    model = Modes(tiny.net()).train()
    make(TRADES).loss_sum(model, x, adv, y).backward()
    assert [mode for _, mode in model.seen] == [True, True]
    assert {id(x), id(adv)} == {id(image) for image, _ in model.seen}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_without_an_attack_both_objectives_are_cross_entropy() -> None:
    x, _, y = batch()
    model = tiny.net(norm="group")
    expected = F.cross_entropy(model(x), y, reduction="sum")
    assert torch.equal(make(TRADES).loss_sum(model, x, x, y), expected)
    assert torch.equal(make(Objective()).loss_sum(model, x, x, y), expected)


def test_confident_predictions_give_finite_gradients() -> None:
    x, adv, y = batch()
    model = tiny.Scaled(tiny.net(norm="group"), scale=1e4)
    loss = make(TRADES).loss_sum(model, x, adv, y)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def vit(root: Path, **fields: Any) -> tuple[RunConfig, network.Classifier]:
    config = tiny.config(**fields)
    return config, network.build(config, 10, Store(root))


def trained(root: Path, **fields: Any) -> tuple[Trainer, dict[str, Tensor]]:
    """A trainer after its last epoch, and the weights before the first."""
    config, model = vit(root, **fields)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = tiny.dataset(20, 10)
    data = type(data)(data.name, 10, *(tiny.noise(n, size=16) for n in (20, 10, 10)))
    trainer = Trainer(config, data, model, Store(root).run(config.id), device=tiny.CPU)
    trainer.run.path.mkdir(parents=True, exist_ok=True)
    trainer.fit()
    return trainer, before


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_linear_probing_changes_the_head_alone(tmp_path: Path, backbone: str) -> None:
    trainer, before = trained(tmp_path, protocol="linear", backbone=backbone, epochs=1)
    after = trainer.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    heads = trainable.head_names(trainer.model)
    assert changed and all(name.startswith(heads) for name in changed)
    # Attacks and validation came between: the backbone is still frozen, in evaluation mode.
    trainable.train_mode(trainer.model, trainer.config)
    for name, module in trainer.model.named_modules():
        assert module.training == (name in heads)


def test_full_fine_tuning_changes_everything_that_learns(tmp_path: Path) -> None:
    trainer, before = trained(tmp_path, epochs=1)
    after = trainer.model.state_dict()
    same = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    assert len(after) > 20 and same == []


@pytest.mark.parametrize("protocol", ["full", "linear"])
def test_groups_hold_every_trained_weight_once(tmp_path: Path, protocol: str) -> None:
    optim = {"lr": 1e-3, "weight_decay": 0.1, "head_lr": 1e-2, "head_weight_decay": 0.3}
    config, model = vit(tmp_path, protocol=protocol, optim=optim)
    trainable.prepare(model, config)
    groups = trainable.groups(model, config)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            head = names[id(parameter)].startswith("net.head.")
            assert group["peak"] == (1e-2 if head else 1e-3)
            decay = (0.3 if head else 0.1) if parameter.ndim > 1 else 0.0
            assert group["weight_decay"] == decay
    assert len(groups) == (4 if protocol == "full" else 2)


@pytest.mark.parametrize(
    ("backbone", "size", "listed"),
    [
        ("test_vit", 32, {"net.cls_token", "net.pos_embed"}),
        ("swin_tiny_patch4_window7_224", 32, "relative_position_bias_table"),
        # lists a pattern, 'pos_embed.*'
        ("xcit_nano_12_p16_224", 32, {"net.cls_token", "net.pos_embed.token_projection.weight"}),
        ("test_convnext", 32, set()),  # has no list
    ],
)
def test_what_timm_lists_decays_unless_asked(
    tmp_path: Path, backbone: str, size: int, listed: Any
) -> None:
    decayed: dict[str, set[str]] = {}
    for choice in ("vectors", "library"):
        optim = {"lr": 1e-3, "weight_decay": 0.1, "no_decay": choice}
        config = tiny.config(backbone=backbone, image_size=size, optim=optim)
        model = network.build(config, 10, Store(tmp_path))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = trainable.groups(model, config)
        assert sum(len(group["params"]) for group in groups) == len(names)
        held = (group["params"] for group in groups if group["weight_decay"])
        decayed[choice] = {names[id(parameter)] for group in held for parameter in group}
    if isinstance(listed, str):
        listed = {name for name in names.values() if name.endswith(listed)}
        assert len(listed) == 12
    if not any("*" in name for name in getattr(model.net, "no_weight_decay", set)()):
        listed = listed - {"net.pos_embed.token_projection.weight"}  # timm < 1.0.31
    assert decayed["vectors"] - decayed["library"] == listed
    assert decayed["library"] <= decayed["vectors"]


def test_both_learning_rates_follow_one_schedule(tmp_path: Path) -> None:
    optim = {"lr": 1e-3, "head_lr": 1e-2, "warmup": 0.5}
    config, model = vit(tmp_path, optim=optim)
    data = type(tiny.dataset())("tiny", 10, *(tiny.noise(n, size=16) for n in (20, 10, 10)))
    trainer = Trainer(config, data, model, Store(tmp_path).run(config.id), device=tiny.CPU)
    for step in range(4):
        trainer.step.set_rate(partial(learning_rate, config, step, 4))
        backbone, head = (trainer.step.optimizer.param_groups[i]["lr"] for i in (0, -1))
        assert head == pytest.approx(10 * backbone) and backbone > 0


@pytest.mark.parametrize("fields", [{"protocol": "linear"}, {"optim": {"head_lr": 0.1}}])
def test_a_network_without_a_known_head_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="does not say which of its modules is the head"):
        trainable.prepare(tiny.net(), tiny.config(**fields))


def test_what_a_run_does_not_use_is_no_part_of_it() -> None:
    plain = tiny.config(optim={"lr": 1e-3})
    assert tiny.config(optim={"lr": 1e-3, "head_lr": 1e-3}).id == plain.id
    assert tiny.config(optim={"lr": 1e-3}, objective={"beta": 5}).id == plain.id
    linear = tiny.config(protocol="linear", optim={"lr": 1e-3})
    assert tiny.config(protocol="linear", optim={"lr": 9.0, "head_lr": 1e-3}).id == linear.id
    exempt = {"lr": 1e-3, "no_decay": "library"}
    assert tiny.config(protocol="linear", optim=exempt).id == linear.id
    assert (
        tiny.config(backbone="mini_resnet", protocol="lora", optim=exempt).optim.no_decay
        == "vectors"
    )
    assert tiny.config(optim={**exempt, "weight_decay": 0}).optim.no_decay == "vectors"
    assert tiny.config(optim=exempt).id != plain.id
    assert tiny.config(optim={"lr": 1e-3, "no_decay": "vectors"}).id == plain.id
    standard = tiny.config(schedule="standard")
    assert tiny.config(schedule="standard", objective={"kind": "trades"}).id == standard.id
    others = [
        tiny.config(protocol="linear"),
        tiny.config(objective={"kind": "trades"}),
        tiny.config(objective={"kind": "trades", "beta": 6}),
        tiny.config(optim={"lr": 1e-3, "head_lr": 1e-2}),
        tiny.config(optim={"lr": 1e-3, "head_weight_decay": 0}),
    ]
    assert len({config.id for config in [plain, *others]}) == 6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_trades_trains_from_config_to_the_last_epoch(tmp_path: Path, norm: str) -> None:
    fields = {"norm": norm, "epsilon_g": "1/2", "objective": {"kind": "trades", "beta": 6}}
    trainer, before = trained(tmp_path, epochs=1, **fields)
    (row,) = trainer.rows
    assert row["train_loss"] > 0 and row["train_clean_correct"] >= 0
    assert not torch.equal(trainer.model.state_dict()["net.head.weight"], before["net.head.weight"])

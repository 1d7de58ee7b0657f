"""What a training step keeps in memory: counted against networks whose sum is known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from core.attack.apgd import run_apgd
from core.errors import ConfigError
from core.model import network
from core.store.folders import Store
from core.store.json_files import read_json
from core.training import memory
from core.training.trainer import Trainer
from slurm.profile import read_profile
from sweep.rehearsal import gpu_memory
from sweep.rehearsal.gpu_memory import Fit, Need


def chain() -> nn.Sequential:
    """Saves its input (12 floats) and the output of the activation (20) for each image."""
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))


def test_counts_what_the_backward_needs_once() -> None:
    net = chain()
    meter = memory.Meter(net)
    loss = net(torch.rand(7, 12)).sum()
    assert meter.take() == 4 * (12 + 20)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters()), "counting changes nothing"
    assert meter.take() == 0


def test_attacks_and_evaluations_do_not_count() -> None:
    net = nn.Sequential(nn.Flatten(), chain())
    meter = memory.Meter(net)
    run_apgd(net, torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 2]), epsilon=0.1, steps=2)
    with torch.no_grad():
        net(torch.rand(3, 3, 2, 2))
    assert meter.take() == 0


def test_gradients_are_the_same_and_a_failing_forward_leaves_nothing() -> None:
    torch.manual_seed(0)
    net, x = tiny.net().eval(), torch.rand(4, 3, 8, 8)
    F.cross_entropy(net(x), torch.arange(4)).backward()
    expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    meter = memory.Meter(net)
    with pytest.raises(RuntimeError):
        net(torch.rand(4, 1, 8, 8))
    outside = torch.rand(5, requires_grad=True).exp()
    before = dict(meter.saved)
    outside.sum().backward()
    assert meter.saved == before, "hooks are gone after a forward that raised"
    F.cross_entropy(net(x), torch.arange(4)).backward()
    for grad, p in zip(expected, net.parameters(), strict=True):
        assert p.grad is not None and torch.equal(grad, p.grad)


def note(store: Store, **fields: Any) -> dict[str, float]:
    """memory.json of one epoch of training."""
    config = tiny.config(backbone="mini_resnet", image_size=32, epochs=1, batch=2, **fields)
    splits = [tiny.noise(n, size=32) for n in (4, 2, 2)]
    run = store.run(config.id)
    model = network.build(config, 10, store)
    trainer = Trainer(config, tiny.Dataset("x", 10, *splits), model, run, device=tiny.CPU)
    memory.watch(trainer)
    trainer.fit()
    found: dict[str, float] = read_json(run.memory) or {}
    return found


def test_a_step_by_what_the_run_trains(store: Store) -> None:
    plain, trades, linear = (
        note(store),
        note(store, objective={"kind": "trades"}),
        note(store, protocol="linear"),
    )
    bf16, averaged = note(store, precision="bf16"), note(store, optim={"ema": 0.9, "lr": 1e-4})
    weights = plain["fixed"] / (1 + memory.COPIES)
    assert trades["per_image"] == pytest.approx(2 * plain["per_image"], rel=0.05), "two forwards"
    assert linear["per_image"] < 0.05 * plain["per_image"]
    assert weights < linear["fixed"] < 1.1 * weights
    assert bf16["per_image"] < 0.8 * plain["per_image"]
    assert bf16["fixed"] == pytest.approx(plain["fixed"] + weights / 2)
    assert averaged["fixed"] == pytest.approx(plain["fixed"] + weights)


def test_verdicts() -> None:
    need = Need(fixed=2e9, per_image=0.5e9)
    assert need.gb(128) == pytest.approx(gpu_memory.MARGIN * 66 + gpu_memory.CONTEXT_GB)
    assert Fit("x", need, 128, 80.0).verdict == ""
    assert Fit("x", need, 128, None).verdict == ""
    assert Fit("x", need, 128, 40.0).verdict == "more than 40 GB; micro-batches of 64 would fit"
    assert need.most(100, 40.0) == 64, "as a run halves: to powers of two"
    assert Fit("x", need, 128, 3.0).verdict == "not even one image fits into 3 GB"


def test_a_profile_says_how_large_its_gpus_are(tmp_path: Path) -> None:
    assert read_profile("alliance").gpu_memory_gb == 80
    file = tmp_path / "mine.yaml"
    head = "executor: slurm\nslurm: {timeout_min: 60}\n"
    file.write_text(f"{head}gpu_memory_gb: 40\noverrides:\n  vit: {{gpu_memory_gb: 80}}\n")
    mine = read_profile(file)
    assert mine.for_backbone("vit").gpu_memory_gb == 80
    assert mine.for_backbone("swin").gpu_memory_gb == 40
    file.write_text(f"{head}gpu_memory_gb: lots\n")
    with pytest.raises(ConfigError, match="gpu_memory_gb: expected a number"):
        read_profile(file)

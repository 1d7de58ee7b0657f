"""Optimiser steps of a training: accumulation, learning rates, clipping, frozen weights."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.store.folders import Store
from core.training.rate import learning_rate


class InDouble(nn.Module):
    """Computes in float64, so that only a real difference survives Adam's division."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits


@pytest.mark.parametrize("schedule", ["standard", "fix"])
@pytest.mark.parametrize("micro_batch", [1, 3, 5])
def test_accumulation_equals_the_whole_batch(
    store: Store, tmp_path: Path, micro_batch: int, schedule: str
) -> None:
    """Of a model without statistics over images; 3 does not divide the batch of 10."""
    config = tiny.config(schedule=schedule)
    fresh, whole, parts = (InDouble(tiny.net(norm="group")) for _ in range(3))
    rows = tiny.trainer(store, config, model=whole).fit()
    other = Store(tmp_path / "other")
    parted = tiny.trainer(other, config, model=parts, micro_batch=micro_batch).fit()
    for a, b in zip(rows, parted, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["train_clean_correct"] == b["train_clean_correct"]
        assert a["val_clean_correct"] == b["val_clean_correct"]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    moved = zip(whole.parameters(), fresh.parameters(), strict=True)
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in moved)


@given(
    steps=st.integers(1, 400),
    warmup=st.floats(0, 0.99),
    peak=st.floats(1e-6, 1.0),
)
def test_learning_rate_warms_up_and_falls(steps: int, warmup: float, peak: float) -> None:
    config = tiny.config(optim={"lr": peak, "warmup": warmup})
    rates = [learning_rate(config, step, steps, config.optim.lr) for step in range(steps)]
    warm = round(warmup * steps)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[:warm] == pytest.approx([peak * (i + 1) / warm for i in range(warm)])
    falling = itertools.pairwise(rates[max(warm - 1, 0) :])
    assert all(a >= b * (1 - 1e-12) for a, b in falling)
    if warm < steps:
        assert rates[warm] == pytest.approx(peak)


def test_learning_rate_at_known_steps() -> None:
    config = tiny.config(optim={"lr": 0.8, "warmup": 0.2})
    rates = [learning_rate(config, step, 10, config.optim.lr) for step in range(10)]
    assert rates[:3] == pytest.approx([0.4, 0.8, 0.8])
    assert rates[6] == pytest.approx(0.4)  # half way down
    assert rates[9] == pytest.approx(0.4 * (1 + math.cos(math.pi * 7 / 8)))


def test_a_constant_learning_rate_only_warms_up() -> None:
    config = tiny.config(optim={"lr": 0.8, "warmup": 0.2, "rate": "constant"})
    rates = [learning_rate(config, step, 10, config.optim.lr) for step in range(10)]
    assert rates == pytest.approx([0.4, *[0.8] * 9])


def test_the_optimiser_has_the_betas_of_the_config(store: Store) -> None:
    default = tiny.trainer(store, tiny.config()).step.optimizer.param_groups[0]["betas"]
    own = tiny.trainer(store, tiny.config(optim={"betas": [0.9, 0.95]})).step.optimizer
    assert default == (0.9, 0.999) and own.param_groups[0]["betas"] == (0.9, 0.95)


def test_the_optimiser_uses_these_rates(store: Store) -> None:
    config = tiny.config(epochs=3, optim={"lr": 1e-3, "warmup": 0.25})
    work = tiny.trainer(store, config)
    used: list[float] = []
    work.step.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    rows = work.fit()
    assert used == [learning_rate(config, step, 12, config.optim.lr) for step in range(12)]
    assert [row["lr"] for row in rows] == used[3::4]


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_gradients_are_clipped_only_when_asked(store: Store, clip: float) -> None:
    work = tiny.trainer(store, tiny.config(optim={"lr": 1e-3, "clip": clip}))
    assert tiny.config().optim.clip == 0, "off by default"
    norms: list[float] = []

    def norm(*_: object) -> None:
        gradients = [p.grad for p in work.model.parameters() if p.grad is not None]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    work.step.optimizer.register_step_pre_hook(norm)
    work.fit()
    if clip:
        assert norms == pytest.approx([clip] * len(norms), rel=1e-3)
    else:
        assert min(norms) > 0.1


def test_frozen_parameters_stay(store: Store) -> None:
    model = tiny.net(norm="group")
    model[3].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    tiny.trainer(store, tiny.config(), model=model).fit()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if not name.startswith("3.")}

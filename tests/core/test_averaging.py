"""The moving average of the weights, and training that runs out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from core.store import checkpoint
from core.store.folders import Store
from core.training.averaging import Average
from core.training.monitor import Monitor
from core.training.trainer import Trainer


def trainer(root: Path, model: nn.Module | None = None, **fields: Any) -> Trainer:
    config = tiny.config(**fields)
    run = Store(root).run(config.id)
    run.path.mkdir(parents=True, exist_ok=True)
    model = model or tiny.net()
    return Trainer(config, tiny.dataset(), model, run, device=tiny.CPU, monitor=Monitor())


def test_is_the_formula() -> None:
    model = tiny.net()
    average = Average(model, 0.9)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value += torch.randn(value.shape, generator=generator)
                else:
                    value += 1
        average.update(model)
        for name, value in model.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value
    got = average.model.state_dict()
    for name, value in got.items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], atol=1e-5)
        else:
            assert torch.equal(value, model.state_dict()[name])


def test_takes_no_part_in_training(tmp_path: Path) -> None:
    plain, averaged = (trainer(tmp_path, optim={"lr": 1e-3, "ema": decay}) for decay in (0.0, 0.5))
    plain.fit()
    averaged.fit()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, averaged.model.state_dict()[name])
    assert plain.evaluated is plain.model and averaged.evaluated is not averaged.model
    one, other = (work.evaluated.state_dict()["0.weight"] for work in (plain, averaged))
    assert not torch.equal(one, other)
    assert plain.rows[-1]["train_loss"] == averaged.rows[-1]["train_loss"]
    assert plain.rows[-1]["val_loss"] != averaged.rows[-1]["val_loss"], "not what is validated"


def test_is_resumed_and_kept(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"optim": {"lr": 1e-3, "ema": 0.8}, "epochs": 3}
    whole = trainer(tmp_path / "whole", **fields)
    whole.fit()
    first = trainer(tmp_path / "cut", **fields)
    first.rows = [first._epoch(0)]
    first._save()
    second = trainer(tmp_path / "cut", **fields)
    second.fit()
    for name, value in whole.evaluated.state_dict().items():
        assert torch.equal(value, second.evaluated.state_dict()[name])
    checkpoint.slim(second.run, second.state())
    kept, _ = checkpoint.load(second.run)
    assert kept is not None and not {"average", "optimizer"} & set(kept)
    assert torch.equal(kept["model"]["0.weight"], second.evaluated.state_dict()["0.weight"])
    again = trainer(tmp_path / "cut", **fields)
    again.fit()
    assert torch.equal(again.evaluated.state_dict()["0.weight"], kept["model"]["0.weight"])


class Small(nn.Module):
    """Runs out of memory where more than `room` images are trained at once."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logits


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(tmp_path: Path) -> None:
    """Ends as a training that knew the micro-batch from the beginning: dropout, BatchNorm
    statistics and all."""
    remarks: list[str] = []
    surprised = trainer(tmp_path / "a", Small(tiny.net(), room=4))
    surprised.monitor.remark = remarks.append
    surprised.fit()
    knowing = trainer(tmp_path / "b", Small(tiny.net(), room=4))
    knowing.step.micro_batch = 4
    knowing.fit()
    assert surprised.step.micro_batch == 4 and surprised.batch == 10
    assert remarks == [f"out of memory: going on with micro-batches of {size}" for size in (8, 4)]
    for name, value in knowing.model.state_dict().items():
        assert torch.equal(value, surprised.model.state_dict()[name]), name


def test_one_image_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        trainer(tmp_path, Small(tiny.net(), room=0)).fit()

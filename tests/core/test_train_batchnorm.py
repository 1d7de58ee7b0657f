"""The number of images per BatchNorm statistic: recorded, shrinking with memory, or fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from core.config import ConfigError
from core.machine.team import Team
from core.store.folders import Store
from core.store.records import batchnorm_images


def test_images_per_batchnorm_statistic_are_recorded(tmp_path: Path) -> None:
    """They change a training under one id, so that each epoch says what they were."""
    losses = set()
    for size in (10, 5, 2):
        rows = tiny.trainer(
            Store(tmp_path / str(size)), tiny.config(epochs=1), micro_batch=size
        ).fit()
        assert rows[0]["micro_batch"] == size and rows[0]["batchnorm_images"] == [size]
        losses.add(round(rows[0]["train_loss"], 4))
    assert len(losses) == 3
    store = Store(tmp_path / "group")
    (row,) = tiny.trainer(store, tiny.config(epochs=1), model=tiny.net(norm="group")).fit()
    assert row["batchnorm_images"] == [] and row["micro_batch"] == 10


class Forgetful(nn.Module):
    """Runs out of memory in one training forward."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.inner, self.left = tiny.net(), at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        if self.left == 0 and self.training:
            raise torch.OutOfMemoryError("full")
        logits: Tensor = self.inner(x)
        return logits


def test_images_per_statistic_that_shrink_are_recorded(store: Store) -> None:
    rows = tiny.trainer(store, tiny.config(), model=Forgetful(at=3)).fit()
    assert [row["batchnorm_images"] for row in rows] == [[10, 8], [8]]
    assert batchnorm_images(rows) == [10, 8]


def test_images_per_statistic_that_the_config_fixes_stay(tmp_path: Path) -> None:
    config = tiny.config(epochs=1, batchnorm_images=5)
    assert config.id != tiny.config(epochs=1).id
    seen = []
    model = tiny.net()
    model[1].register_forward_pre_hook(
        lambda norm, inputs: seen.append(len(inputs[0])) if norm.training else None
    )
    (row,) = tiny.trainer(Store(tmp_path / "a"), config, model=model, micro_batch=2).fit()
    assert set(seen) == {5} and row["batchnorm_images"] == [5]
    with pytest.raises(torch.OutOfMemoryError):
        tiny.trainer(Store(tmp_path / "b"), config, model=Forgetful(at=3)).fit()


@pytest.mark.parametrize("size", [1, 2])
def test_statistics_are_over_the_same_images_in_every_team(store: Store, size: int) -> None:
    config = tiny.config(batchnorm_images=2, batch=12)
    index = torch.arange(12)
    parts: list[Any] = [
        tiny.trainer(store, config, team=Team(rank, size)).step._parts(index)
        for rank in range(size)
    ]
    found = [part.tolist() for turn in zip(*parts, strict=True) for part in turn]
    assert found == index.view(6, 2).tolist()
    with pytest.raises(ConfigError, match="batchnorm_images 2: does not divide a step of 12"):
        tiny.trainer(store, config, team=Team(0, 4))

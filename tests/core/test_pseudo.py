"""Pseudo-margins: learned from held-out distances, in both variants, the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn
from whole_run import execute, flags

from core.config import ConfigError, EvalConfig
from core.data.splits import Split
from core.evaluation import pseudo
from core.store.folders import Store
from core.store.json_files import read_json

ASKED = EvalConfig.parse(
    {"attack": "fmn", "steps": 2, "margins": True, "pseudo_images": 50, "epsilons": "0..4/255"}
)


class Net(nn.Module):
    """Features are mean colours; logits are linear in them, afterwards perhaps doubled."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.head, self.scale = nn.Linear(3, 5), scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits * self.scale


def distances(split: Split) -> np.ndarray:
    """Of no boundary: the mean red of an image tells them, not its logit margin."""
    red: np.ndarray = (split.images[:, 0].float().mean((1, 2)) / 255).numpy()
    return (0.02 + 0.1 * (red - 0.5) ** 2).astype(np.float32)


def images(n: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(256, (n, 3, 1, 1), generator=generator)
    return Split(colours.expand(n, 3, 4, 4).byte(), torch.zeros(n, dtype=torch.long))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_what_logits_and_features_tell_of_distances_is_learned(
    monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    monkeypatch.setattr(pseudo, "RATE", 1e-2)
    monkeypatch.setattr(pseudo, "WIDTH", 32)
    torch.manual_seed(0)
    net, known, asked = Net(scale).eval(), images(200, 1), images(100, 2)
    distance = distances(known)
    distance[:9] = np.inf
    at: Any = {"batch": 64, "device": tiny.CPU}
    found = pseudo.pseudo_margins(net, known, distance, asked, **at)
    again = pseudo.pseudo_margins(net, known, distance, asked, **at)
    names = {"pseudo_logits", "pseudo_features"} if scale == 1 else {"pseudo_logits"}
    assert {*found} == names  # doubled logits are no linear layer's
    for name, margins in found.items():
        assert np.array_equal(margins, again[name])
        assert kendalltau(margins, distances(asked)).statistic > 0.8


def test_an_evaluation_writes_them_beside_the_other_margins(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo, "EPOCHS", 5)
    config = tiny.config()
    execute(store, config, [ASKED], images=None)
    found = flags(store.run(config.id), ASKED)
    for name in ("logit_margin", "feature_margin", "pseudo_logits", "pseudo_features"):
        assert len(found[name]) == len(found["distance"]) and np.isfinite(found[name]).all()
    plain = ASKED.model_copy(update={"pseudo_images": None})
    assert plain.id != ASKED.id
    execute(store, config, [plain], images=None)
    without = flags(store.run(config.id), plain)
    assert np.array_equal(found["distance"], without["distance"])
    costs = [read_json(store.run(config.id).eval_json(one.id)) for one in (ASKED, plain)]
    assert costs[0] and costs[1] and costs[0]["forwards"] > costs[1]["forwards"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"margins": False}, "pseudo_images: needs margins: true and split: test"),
        ({"split": "val"}, "pseudo_images: needs margins: true and split: test"),
        ({"pseudo_images": 49}, "margins are learned from at least 50 images, got 49"),
        ({"attack": "apgd-ce"}, "does not apply to attack 'apgd-ce', remove it"),
    ],
)
def test_what_does_not_go_together(fields: dict[str, Any], told: str) -> None:
    data = {"attack": "fmn", "margins": True, "pseudo_images": 60} | fields
    with pytest.raises(ConfigError) as caught:
        EvalConfig.parse(data)
    assert any(told in line for line in caught.value.lines)

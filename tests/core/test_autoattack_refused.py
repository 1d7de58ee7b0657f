"""AutoAttack refuses sizes and tasks that it cannot attack, before anything is trained."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from core.config import AutoAttack, ConfigError, RobustAccuracy
from core.config.evaluation_kinds import ensemble_problem
from core.data import inputs, splits
from core.run.pipeline import Options, execute
from core.store.claims import Claim
from core.store.folders import Store


@pytest.mark.parametrize(
    ("classes", "told"), [(3, "needs at least 4 classes"), (4, r"epsweep\[autoattack\]")]
)
def test_what_cannot_be_attacked_is_not_trained(
    store: Store, monkeypatch: pytest.MonkeyPatch, classes: int, told: str
) -> None:
    if classes > 3:
        monkeypatch.setitem(sys.modules, "pyautoattack", None)
    else:
        monkeypatch.setitem(sys.modules, "pyautoattack", types.ModuleType("pyautoattack"))
    monkeypatch.setattr(splits, "load", lambda *_, **__: tiny.dataset(classes=classes))
    config, asked = tiny.config(), AutoAttack()
    claim = Claim.acquire(store.run(config.id))
    with pytest.raises(ConfigError, match=told):
        execute(config, [asked], store, claim, Options(tracking="none"))
    assert not store.run(config.id).metrics.exists()
    assert claim
    claim.release("failed")


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_sizes_that_are_refused_are_those_at_which_square_fails(norm: str) -> None:
    square = pytest.importorskip("pyautoattack.square")
    names = {"linf": "Linf", "l2": "L2", "l1": "L1"}

    def answer(x: Tensor) -> Tensor:  # class 0, at every point
        return x.flatten(1)[:, :4] * 0 + torch.tensor([9.0, 0.0, 0.0, 0.0])

    for size in range(8, 31):
        attack = square.SquareAttack(answer, norm=names[norm], n_queries=3, eps=0.1, device="cpu")
        fails = False
        try:
            attack.perturb(torch.full((1, 3, size, size), 0.5), torch.zeros(1, dtype=torch.long))
        except RuntimeError:
            fails = True
        told = ensemble_problem(norm, size, 10)
        assert (told is not None) is fails, size
        if told:
            near = int(told.rsplit(" ", 1)[1])
            assert near >= 8 and ensemble_problem(norm, near, 10) is None


def test_what_cannot_be_attacked_is_reported_when_it_is_planned(
    tmp_path: Path, store: Store
) -> None:
    """Sizes and classes, of names and of own folders, drawn ones at the size they are drawn in."""
    pytest.importorskip("pyautoattack")
    for name in ("a", "b", "c"):
        for split in ("train", "val", "test"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            (tmp_path / "mine" / split / name / "1.png").touch()
    own = tiny.config(dataset=str(tmp_path / "mine"))
    asked = {n: AutoAttack(norm=n, epsilons=[0, 0.25]) for n in ("linf", "l2")}
    small, drawn = tiny.config(image_size=24, backbone="test_resnet"), tiny.config(dataset="plane")
    pairs = [
        (own, asked["linf"]),
        (own, RobustAccuracy()),
        (small, asked["l2"]),
        (drawn, asked["l2"]),
    ]
    pairs += [(small, asked["linf"]), (small, asked["l2"])]
    lines = inputs.missing([config for config, _ in pairs], store, evals=pairs)
    assert len(lines) == 2, "one line each, however many runs ask for it"
    assert lines[0].startswith(f"dataset {tmp_path}/mine: ") and "at least 4 classes" in lines[0]
    assert "images of 24 pixels; nearest image_size that works: 23" in lines[1]


def test_an_image_size_that_square_cannot_take_is_not_trained(store: Store) -> None:
    pytest.importorskip("pyautoattack")
    config = tiny.config(image_size=12, backbone="test_resnet")
    asked = AutoAttack(norm="l2", epsilons=[0, 0.25])
    claim = Claim.acquire(store.run(config.id))
    with pytest.raises(ConfigError, match="images of 12 pixels; nearest image_size"):
        execute(config, [asked], store, claim, Options(tracking="none"))
    assert not store.run(config.id).metrics.exists()
    assert claim
    claim.release("failed")

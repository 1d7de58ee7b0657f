"""What core makes of own code: kinds of ours in the same registries, networks of the user's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import config

from core.config import ConfigError, RunConfig, own_code
from core.config.parts import OBJECTIVES
from core.config.schedule import KINDS
from core.model import network, trainable
from core.store import signatures
from core.store.folders import Store
from core.training import objectives, schedules

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, head="head"):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.add_module(head, nn.Linear(8, classes))
        self.last = head
    def forward(self, x):
        return getattr(self, self.last)(self.body(x))

def headless(classes): return Net(classes, "fc")
def few(classes): return Net(classes - 1)
def picky(classes): return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))
def nothing(classes): return None
def broken(classes): raise KeyError("size")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("nets", None)
    own_code._imported.clear()


def own(name: str = "Net", **fields: object) -> RunConfig:
    return config(backbone=f"nets:{name}", **fields).with_code()


def test_every_kind_of_ours_is_in_its_registry() -> None:
    assert {*schedules.KINDS} == {*KINDS} and {*objectives.KINDS} == {*OBJECTIVES}


def test_a_network_takes_pixels_as_they_are_and_is_made_from_the_seed(store: Store) -> None:
    model, again = (network.build(own(), 10, store) for _ in range(2))
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model.eval()(x), model.net(x))
    assert torch.equal(model(x), again.eval()(x))
    assert not torch.equal(model(x), network.build(own(seed=1), 10, store).eval()(x))


def test_a_checkpoint_gives_all_but_the_head(store: Store, here: Path) -> None:
    source = network.build(own(seed=5), 10, store).net
    torch.save(source.state_dict(), here / "x.pt")
    model = network.build(own(weights=str(here / "x.pt")), 10, store).net
    assert torch.equal(model.body[0].weight, source.body[0].weight)  # type: ignore[index,union-attr]
    assert not torch.equal(model.head.weight, source.head.weight)  # type: ignore[union-attr,arg-type]


def test_a_head_is_the_module_of_that_name(store: Store) -> None:
    probe = own(protocol="linear")
    model = network.build(probe, 10, store)
    trainable.prepare(model, probe)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"net.head.weight", "net.head.bias"}
    headless = own("headless", protocol="linear")
    with pytest.raises(ConfigError, match="does not say which of its modules is the head; call it"):
        trainable.prepare(network.build(headless, 10, store), headless)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("few", r"expected logits \[2, 10\] of 2 images, got \[2, 9\]"),
        ("picky", "cannot take images of 16 pixels"),
        ("nothing", "expected an nn.Module, got NoneType"),
        ("broken", r"KeyError: 'size' \(.*nets.py:\d+\)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_one_line(
    store: Store, name: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        network.build(own(name), 10, store)
    assert len(caught.value.lines) == 1 and "\n" not in str(caught.value)


def test_code_is_part_of_a_run_only_if_the_run_uses_it() -> None:
    plain = config()
    assert "code" not in plain.delta and config(code={"other:X": "0" * 16}).id == plain.id
    run = own()
    assert dict(run.code) == {"nets:Net": own_code.digest("nets:Net")}
    both = run.model_copy(update={"code": (*run.code, ("mine:Power", "0" * 16))})
    twin = signatures.twin(both, "standard")
    assert dict(twin.code) == dict(run.code), "the standard run has no schedule of the user's"
    with pytest.raises(ConfigError, match="no digest of nets:Net"):
        config(backbone="nets:Net").check_code()


def test_a_loss_of_the_users_stays_without_an_attack_and_trades_does_not() -> None:
    asked = {"kind": "mine:Loss", "gamma": 2.0}
    mine = config(schedule="standard", objective=asked).objective
    assert mine.kind == "mine:Loss" and mine.knobs == (("gamma", 2),)
    assert config(schedule="standard", objective={"kind": "trades"}).objective.kind == "at"

"""Released robust checkpoints as safetensors: every layout of them, and what must not run."""

from __future__ import annotations

import os
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import core.model.vision  # noqa: F401

import timm  # isort: skip

from core.config import ConfigError
from core.data import inputs
from core.model import conversion, pretrained
from core.store.folders import Store

State = dict[str, Tensor]
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "robust_convnext_base": ("convnext_base", {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}),
    "robust_convnext_tiny": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}),
    "robust_deit_small_patch16_224": (
        "deit_small_patch16_224",
        {"embed_dim": 12, "depth": 1, "num_heads": 2},
    ),
    "robust_vit_base_patch16_224": (
        "vit_base_patch16_224",
        {"embed_dim": 12, "depth": 1, "num_heads": 2},
    ),
    "robust_resnet50": ("resnet50", {"layers": (1, 1, 1, 1), "channels": (4, 8, 12, 16)}),
}
"""The architectures of the releases with few and narrow layers: the names are the real ones."""
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)


def network(name: str, seed: int = 0) -> Any:
    architecture, options = SMALL[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(architecture, num_classes=7, **options)


def under(prefix: str, state: State) -> State:
    return OrderedDict((f"{prefix}{key}", value) for key, value in state.items())


def singh(prefix: str) -> Callable[[State], Any]:
    """Flat, the network behind a layer that normalises, perhaps saved by several processes."""
    outer = "module." if prefix.startswith("module.") else ""
    return lambda state: under(prefix, state) | {f"{outer}normalize.mean": MEAN.clone()}


class Extra:
    """Something pickled beside the weights; reading it as Python does would run its code."""

    def __init__(self, folder: str = ".") -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (f"{self.folder}/ran",), {"state": 1}


def madry(state: State) -> Any:
    """MadryLab's: the model twice, the optimiser, and objects of a package that nobody has here."""
    plugin = types.ModuleType("cox_parameters")
    plugin.Parameters = type("Parameters", (dict,), {"__module__": "cox_parameters"})  # type: ignore[attr-defined]
    sys.modules["cox_parameters"] = plugin
    network, attacker = under("module.model.", state), under("module.attacker.model.", state)
    constants = {"new_mean": MEAN.clone(), "new_std": MEAN.clone()}
    model = {
        **under("module.normalizer.", constants),
        **network,
        **under("module.attacker.normalize.", constants),
        **{key: value + 1 for key, value in attacker.items()},
    }
    args = plugin.Parameters(eps=4 / 255, constraint="inf")  # type: ignore[attr-defined]
    args.note = print
    moments = {0: {"momentum_buffer": torch.ones(3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"model": model, "optimizer": optimizer, "epoch": 89, "args": args, "type": Extra}


LAYOUTS: dict[str, tuple[str, Callable[[State], Any]]] = {
    "Singh et al., ConvNeXt-B": ("robust_convnext_base", singh("base_model.")),
    "Singh et al., ConvNeXt-T": ("robust_convnext_tiny", singh("module.base_model.")),
    "Singh et al., DeiT-S": ("robust_deit_small_patch16_224", singh("module.model.")),
    "Singh et al., ViT-B": ("robust_vit_base_patch16_224", singh("")),
    "MadryLab, ResNet-50": ("robust_resnet50", madry),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_released_layout(layout: str, zipped: bool, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    source = network(name).state_dict()
    released, to = tmp_path / "released.pt", tmp_path / "x.safetensors"
    torch.save(write(source), released, _use_new_zipfile_serialization=zipped)
    sys.modules.pop("cox_parameters", None)
    told = conversion.convert(released, to)
    found = load_file(to)
    assert found.keys() == source.keys(), "strictly timm's names"
    assert all(torch.equal(found[key], source[key]) for key in source)
    assert told["tensors"] == len(source)
    assert ("cox_parameters.Parameters" in told["left_out"]) == (write is madry)
    net = network(name, seed=1)
    pretrained.load_weights(net, to)
    head = pretrained.heads_of(net)
    kept = {k: v for k, v in net.state_dict().items() if not k.startswith(head)}
    assert kept and all(torch.equal(kept[key], source[key]) for key in kept)
    if write is not madry:  # without the objects the release itself can be read, too
        pretrained.load_weights(network(name, seed=2), released)


def test_squeeze_and_excitation_has_the_name_it_has_now() -> None:
    old = {"base_model.stages.se_conv.weight": MEAN, "base_model.se_module.fc.weight": MEAN}
    found = conversion.state_of(old)
    assert found.keys() == {"stages.se_module.conv.weight", "se_module.fc.weight"}


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_that_was_pickled_runs(zipped: bool, tmp_path: Path) -> None:
    content = {"model": {"a.weight": MEAN}, "extra": Extra(str(tmp_path)), "more": [Extra("/")]}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    told = conversion.convert(tmp_path / "x.pt", tmp_path / "x.safetensors")
    assert told == {"tensors": 1, "numbers": 3, "left_out": "posix.mkdir"}
    assert not (tmp_path / "ran").exists()


def test_the_command_writes_what_runs_take(
    call: Callable[..., tuple[int, str, str]], store: Store, tmp_path: Path
) -> None:
    """By its own process; the registry finds the converted file in the place of the released."""
    file = tmp_path / "imagenet_linf_4.pt"
    torch.save(madry(network("robust_resnet50").state_dict()), file)
    to = store.weights / "robust" / "robust_resnet50.safetensors"
    code, out, err = call("weights", "convert", str(file), "--to", str(to))
    assert code == 0, err
    assert out.startswith(f"{to}: 104 tensors, ") and "left out: " in out
    assert inputs.weights_file("robust/robust_resnet50.pt", store) == to
    code, out, _ = call("weights", "list", "robust_resnet50", "--root", str(store.root))
    assert code == 0 and "yes" in out
    code, _, err = call("weights", "convert", str(file), "--to", str(to))
    assert code == 2 and err.startswith(f"{to}: already exists") and err.count("\n") == 1


def spoilt(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_bad_files_are_one_line(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        code, _, err = call("weights", "convert", *arguments)
        assert code == 2 and err.count("\n") == 1, err
        return err

    assert "no such file, expected a checkpoint (.pt, " in refused(str(tmp_path / "none.pt"))
    assert "a folder, expected a checkpoint" in refused(str(tmp_path))
    page = spoilt(tmp_path / "x.pt", b"<html>404</html>")
    told = f"{page}: not a readable checkpoint (begins with '<html>404</html>'"
    assert told in refused(str(page))
    assert "expected a name that ends in .safetensors" in refused(str(page), "--to", "x.pt")
    plain = spoilt(tmp_path / "x.safetensors", b"")
    assert "already a .safetensors file" in refused(str(plain))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "expected a state dict, found no named tensors"),
        ({"model": Extra("x")}, "found no named tensors; it holds posix.mkdir"),
        ({"a": torch.eye(2).to_sparse()}, "it holds torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_a_file_without_weights_is_reported(content: Any, told: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ConfigError) as caught:
        conversion.convert(tmp_path / "x.pt", tmp_path / "x.safetensors")
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path}/x.pt: ") and told in line
    assert not (tmp_path / "x.safetensors").exists()


def test_a_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:  # as torch.jit.save lays them out
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(ConfigError, match="a TorchScript program"):
        conversion.convert(tmp_path / "x.pt", tmp_path / "x.safetensors")

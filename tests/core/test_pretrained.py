"""Checkpoints with several weights, old ones, damaged ones: which is taken is said or refused."""

from __future__ import annotations

import argparse
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from core.config import ConfigError
from core.data import inputs
from core.model import network as models
from core.model import pretrained
from core.store.folders import Store

import timm  # isort: skip  after core.model.network, which makes torchvision importable
import timm.models  # isort: skip

State = dict[str, Tensor]


def network(seed: int = 0, architecture: str = "test_resnet") -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(architecture, num_classes=7)


def state(seed: int) -> State:
    """Weights that can be told apart by one value."""
    found: State = network().state_dict()
    return found | {"bn1.weight": torch.full_like(found["bn1.weight"], float(seed))}


def under(prefix: str, tensors: State) -> State:
    return {f"{prefix}{key}": value for key, value in tensors.items()}


class Loaded:
    """Which of the weights a file gave, or why none; what was said."""

    def __init__(self, content: Any, folder: Path, pick: str | None = None) -> None:
        file, net = folder / "x.pt", network(9)
        torch.save(content, file)
        self.seed, self.said = None, ""
        try:
            self.said = pretrained.load_weights(net, file, pick)
            self.seed = int(net.state_dict()["bn1.weight"][0])
        except ConfigError as error:
            (self.said,) = error.lines
            assert "\n" not in self.said


LIGHTNING = {"state_dict": {**under("model.", state(1)), **under("ema.", state(2))}}


# Which of several.


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_taken_as_timm_does(tmp_path: Path, averaged: str) -> None:
    plain = averaged.removesuffix("_ema")
    loaded = Loaded({"epoch": 3, plain: state(1), averaged: under("module.", state(2))}, tmp_path)
    theirs = timm.models.load_state_dict(str(tmp_path / "x.pt"))["bn1.weight"][0]
    assert loaded.seed == 2 == int(theirs)
    assert f"'{averaged}.module'; it also has: '{plain}' (to choose: x.pt#NAME)" in loaded.said
    assert Loaded({plain: state(1), averaged: state(2)}, tmp_path, plain).seed == 1


def test_a_run_that_was_killed_gives_what_it_evaluates(tmp_path: Path) -> None:
    content = {"model": under("net.", state(1)), "average": under("net.", state(2))}
    assert Loaded(content, tmp_path).seed == 2


@pytest.mark.parametrize("other", ["ema", "average", "teacher", "m"])
def test_a_toss_up_is_refused_and_can_be_decided(tmp_path: Path, other: str) -> None:
    """Whichever name is shorter or comes first."""
    content = {"state_dict": {**under("model.", state(1)), **under(f"{other}.", state(2))}}
    loaded = Loaded(content, tmp_path)
    assert loaded.seed is None
    names = f"'state_dict.model', 'state_dict.{other}'"
    assert f"several weights in it fit and differ: {names}; choose one" in loaded.said
    assert f"{tmp_path}/x.pt#state_dict.model" in loaded.said
    for pick, seed in ((other, 2), ("model", 1), (f"state_dict.{other}", 2)):
        assert Loaded(content, tmp_path, pick).seed == seed
    assert "several weights" in Loaded(content, tmp_path, "state_dict").said
    loaded = Loaded(content, tmp_path, "modle")
    assert f"x.pt#modle: no such weights in it (it has: {names})" in loaded.said


def test_weights_at_the_top_of_a_file_have_a_name_too(tmp_path: Path) -> None:
    content = state(1) | {"ema": state(2)}
    assert "differ: '.', 'ema'; choose" in Loaded(content, tmp_path).said
    assert Loaded(content, tmp_path, ".").seed == 1
    assert Loaded(content, tmp_path, "ema").seed == 2


def test_the_same_weights_twice_are_no_choice(tmp_path: Path) -> None:
    loaded = Loaded({"model": state(1), "best": under("module.", state(1))}, tmp_path)
    assert loaded.seed == 1


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.encoder.", "net."]
)
def test_any_prefix_is_found_and_reported(tmp_path: Path, prefix: str) -> None:
    others = {"projector.weight": torch.zeros(3), "queue": torch.zeros(2)}
    loaded = Loaded({"state_dict": under(prefix, state(3)) | others, "epoch": 1}, tmp_path)
    assert loaded.seed == 3
    assert loaded.said == (
        f"weights: 90 of 90 tensors of the backbone from {tmp_path}/x.pt, "
        f"'state_dict.{prefix.removesuffix('.')}'"
    )


def test_a_config_names_one_of_several(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "x#2.pt"
    torch.save(LIGHTNING, file)

    def config(weights: str) -> Any:
        return tiny.config(backbone="test_resnet", weights=weights, image_size=32)

    with caplog.at_level(logging.INFO, "epsweep"):
        net = models.build(config(f"{file}#ema"), 5, store).net
    assert int(net.state_dict()["bn1.weight"][0]) == 2
    assert caplog.messages[0].endswith("'state_dict.ema'")
    with pytest.raises(ConfigError, match="several weights"):
        models.build(config(str(file)), 5, store)
    ids = {config(weights).id for weights in (str(file), f"{file}#ema", f"{file}#model")}
    assert len(ids) == 3, "which weights is part of what a run is"
    named = [config(f"{file}{part}") for part in ("", "#ema", "#model")]
    assert inputs.missing(named, store) == []
    (line,) = inputs.missing([config(f"{tmp_path}/gone.pt#ema")], store)
    assert line.startswith(f"weights '{tmp_path}/gone.pt#ema': no such file")
    store.weights.mkdir(parents=True)
    (store.weights / "y.pt").write_bytes(file.read_bytes())
    assert inputs.missing([config("y.pt#ema")], store) == []


# Old, partial and broken weights.


def test_the_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    old = {k: v for k, v in state(4).items() if not k.endswith("num_batches_tracked")}
    loaded = Loaded(old, tmp_path)
    assert loaded.seed == 4 and "75 of 90 tensors" in loaded.said


def test_what_fits_in_part_is_refused_with_numbers(tmp_path: Path) -> None:
    partial = under("module.", state(1))
    del partial["module.conv1.0.weight"], partial["module.bn1.bias"]
    partial["module.bn1.weight"] = torch.zeros(3)
    partial["module.stranger"] = torch.zeros(3)
    loaded = Loaded({"state_dict": partial, "optimizer": {"x": torch.zeros(2)}}, tmp_path)
    assert loaded.said.endswith(
        "does not fit ResNet: 88 of 90 names match in 'state_dict.module'; "
        "conv1.0.weight, bn1.bias missing; stranger unexpected; "
        "bn1.weight of another shape ([3] for [32])"
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: str) -> None:
    broken = state(1)
    broken["layer1.0.conv1.weight"][0, 0, 0, 0] = float(value)
    loaded = Loaded(broken, tmp_path)
    assert "tensor 'layer1.0.conv1.weight' has NaN or infinite values" in loaded.said
    head = state(5)
    head["fc.weight"][0, 0] = float(value)
    assert Loaded(head, tmp_path).seed == 5, "the head is not taken"


def test_a_checkpoint_of_timms_training_script(tmp_path: Path) -> None:
    content = {"epoch": 3, "state_dict": state(6), "args": argparse.Namespace(lr=0.1)}
    assert Loaded(content, tmp_path).seed == 6


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (lambda: {"state_dict": state(1), "best": np.float64(3)}, "multiarray.scalar"),
        (lambda: {"state_dict": state(1), "folder": Path("x")}, "pathlib"),
        (lambda: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_objects_are_named_with_what_to_do(
    tmp_path: Path, content: Callable[[], Any], named: str, zipped: bool
) -> None:
    file = tmp_path / "x.pt"
    torch.save(content(), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError) as error:
        pretrained.load_weights(network(), file)
    (line,) = error.value.lines
    assert line.startswith(f"{file}: not a readable checkpoint (it holds the Python object ")
    assert named in line and "torch.save(model.state_dict(), 'weights.pt')" in line
    assert "weights_only" not in line and "\x1b" not in line


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"<html>404</html>\n", "begins with '<html>404</html>'"),
        (LFS, "a Git LFS pointer, not the file itself; run: git lfs pull"),
        (np.random.default_rng(0).bytes(3000), "binary data"),
    ],
)
def test_files_of_another_kind_are_told_by_how_they_begin(
    tmp_path: Path, suffix: str, content: bytes, said: str
) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        pretrained.read_checkpoint(file)
    assert said in str(error.value) and "weights_only" not in str(error.value)


def test_cut_files_and_other_archives(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save(state(1), file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="damaged or truncated: binary data; "):
        pretrained.read_checkpoint(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(ConfigError, match="not a readable checkpoint") as error:
        pretrained.read_checkpoint(file)
    assert "\n" not in str(error.value)

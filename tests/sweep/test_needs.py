"""Networks that cannot be built as a grid asks for them are refused before a launch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
import torch

from core.config.registry import backbones
from core.model import network
from core.store.folders import Store
from slurm.profile import read_profile
from sweep.checkup import examine
from sweep.grid import parse_grid
from sweep.inputs import needs
from sweep.inputs.needs import misfits
from sweep.submit import backend
from sweep.submit.checks import Check

Call = Callable[..., tuple[int, str, str]]
TEXT = (
    "name: sizes\nbase: {weights: random, dataset: fake, epsilon_g: 4/255, schedule: fix}\n"
    "grid: {image_size: [16], backbone: [convnext_atto, test_vit]}\n"
)


def _checks_shapes() -> bool:
    """Whether torch's meta device refuses what the CPU does; that of 2.6 does not."""
    with torch.device("meta"), suppress(RuntimeError):
        torch.nn.Conv2d(1, 1, 2)(torch.zeros(1, 1, 1, 1))
        return False
    return True


@pytest.mark.skipif(not _checks_shapes(), reason="only its run notices, with this torch")
def test_a_size_that_a_backbone_cannot_take_is_refused_by_launch_and_doctor(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = tmp_path / "sizes.yaml", tmp_path / "outputs"
    path.write_text(TEXT)
    arguments = ("launch", str(path), "--root", str(root), "--profile", "testbed")
    code, _, err = call(*arguments)
    assert code == 2 and not root.exists()
    (line,) = [line for line in err.splitlines() if "image_size" in line]
    assert "image_size 16: convnext_atto cannot take such images (" in line
    assert line.endswith("; it can take 224")
    monkeypatch.setattr(backend, "torch_here", lambda: Check("torch here", "ok", ""))
    code, out, _ = call("doctor", str(path), "--root", str(root), "--json")
    (found,) = [check for check in json.loads(out) if check["name"] == "networks"]
    assert code == 1 and found["verdict"] == "fail" and "convnext_atto" in found["detail"]


def test_doctor_names_weights_that_a_run_will_download(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "torch_here", lambda: Check("torch here", "ok", ""))
    monkeypatch.setenv("HF_HOME", str(store.root))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    text = (
        "name: n\nbase: {dataset: fake, backbone: swin, schedule: standard}\n"
        "grid: {weights: [pretrained, random]}"
    )
    grid = parse_grid(text, Path("n.yaml"))
    checks = examine(read_profile("local"), store, grid, node=False)
    assert [(c.verdict, c.detail) for c in checks if c.name in {"inputs", "weights"}] == [
        ("ok", "data is here, 2 runs"),
        (
            "warn",
            "swin is not in the cache; its first run downloads it, or: sweep weights fetch swin",
        ),
    ]


def test_lora_needs_modules_of_that_name(store: Store) -> None:
    pytest.importorskip("peft")
    config = tiny.config(protocol="lora", lora={"targets": ["attn.qvk"]})
    (line,) = misfits([config], store)
    assert "attn.qvk" in line
    assert not misfits([tiny.config(protocol="lora", lora={"targets": ["attn.qkv"]})], store)


def test_what_is_known_to_fit_is_not_built(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = tiny.config()
    assert not misfits([fits], store)
    monkeypatch.delattr(network, "rehearse")
    small = tiny.config(backbone="mini_resnet", image_size=32)
    assert not misfits([tiny.config(backbone="vit", image_size=224), fits, small], store)
    for other in (tiny.config(image_size=32), tiny.config(protocol="linear")):
        with pytest.raises(AttributeError):
            misfits([other], store)
    monkeypatch.setattr(needs, "_builders", lambda: {"timm": "another version"})
    with pytest.raises(AttributeError):
        misfits([fits], store)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["full", "lora"])
def test_registered_convolutional_networks_take_small_images(store: Store, protocol: str) -> None:
    if protocol == "lora":
        pytest.importorskip("peft")
    for name, entry in backbones().items():
        if entry.family == "convolution":
            fields = {"backbone": name, "image_size": needs.SMALLEST, "protocol": protocol}
            network.rehearse(tiny.config(**fields), store)


def test_a_network_that_only_the_cpu_can_build_is_no_misfit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, devices = network.build, list[str]()

    def picky(*arguments: object) -> object:
        devices.append(network.torch.empty(0).device.type)
        if devices[-1] == "meta":
            raise NotImplementedError("aten::item")
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "build", picky)
    assert not misfits([tiny.config()], store) and devices == ["meta", "cpu"]

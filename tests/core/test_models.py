"""Backbones: any timm id, normalisation inside, local checkpoints, a new head from the seed."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from core.config import ConfigError, RunConfig
from core.data.inputs import missing
from core.model.network import Classifier, build
from core.store import checkpoint
from core.store.folders import Store
from core.training.trainer import Trainer

import timm  # isort: skip  after core.model.network, which makes torchvision importable

IDS = [
    ("test_vit", 32),
    ("test_vit.r160_in1k", 48),  # a tag belongs to weights; random ones do without
    ("test_resnet", 32),
    ("test_convnext", 64),
    ("test_efficientnet", 32),
    ("test_nfnet", 64),
    ("vit_tiny_patch16_224", 32),  # built for a size of its own
    ("deit_tiny_distilled_patch16_224", 32),  # two heads
    ("xcit_nano_12_p16_224", 32),
    ("mini_resnet", 32),
    ("mini_convnext", 32),
]


def config(backbone: str = "test_vit", **fields: Any) -> RunConfig:
    return tiny.config(backbone=backbone, **{"image_size": 32} | fields)


def body(model: Classifier) -> dict[str, Tensor]:
    """Everything but the head, as timm names it."""
    names = model.net.pretrained_cfg["classifier"]
    heads = (names,) if isinstance(names, str) else tuple(names)
    return {k: v for k, v in model.net.state_dict().items() if not k.startswith(heads)}


def head(model: Classifier) -> Tensor:
    weight: Tensor = model.net.get_classifier().weight
    return weight


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("name", "size"), IDS)
def test_any_timm_id(store: Store, name: str, size: int) -> None:
    model = build(config(name, image_size=size), 7, store).eval()
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    assert logits.shape == (3, 7) and logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "xcit_nano_12_p16_224"])
def test_the_net_sees_images_normalised_as_timm_says(store: Store, name: str) -> None:
    model = build(config(name), 5, store)
    seen: list[Tensor] = []
    model.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model(x)
    expected = timm.data.resolve_model_data_config(timm.create_model(name))
    mean, std = (torch.tensor(expected[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(seen[0], (x - mean) / std, atol=1e-6)


def test_a_registry_entry_may_bring_its_own_normalisation(store: Store) -> None:
    model = build(config("mini_convnext"), 5, store)
    assert model.std.flatten().tolist() == pytest.approx([0.075] * 3)
    assert not {"mean", "std"} & set(model.state_dict()), "constants are no weights"
    assert model.double().mean.dtype == torch.float64, "they follow the model"


def test_the_guides_normalisation_is_a_field(store: Store) -> None:
    """Only where it changes something: the same run otherwise."""
    asked = {"dataset": "fake", "weights": "random"}
    same = RunConfig.parse({"backbone": "swin", "normalisation": "guide", **asked})
    assert same == RunConfig.parse({"backbone": "swin", **asked})
    other = RunConfig.parse(
        {"backbone": "mobilevit_s.cvnets_in1k", "normalisation": "guide", "image_size": 64, **asked}
    )
    assert other.delta["normalisation"] == "guide"
    assert build(other, 5, store).mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    plain = other.model_copy(update={"normalisation": "weights"})
    assert build(plain, 5, store).mean.flatten().tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="normalisation: 'guide' is known only for the backbones"):
        RunConfig.parse({"backbone": "test_vit", "normalisation": "guide", **asked})


def test_group_norm_replaces_batch_norm(store: Store) -> None:
    kinds = {type(module) for module in build(config("mini_resnet"), 5, store).modules()}
    plain = {type(module) for module in build(config("test_resnet"), 5, store).modules()}
    assert nn.GroupNorm in kinds and not any("BatchNorm" in kind.__name__ for kind in kinds)
    assert any("BatchNorm" in kind.__name__ for kind in plain)


@pytest.mark.parametrize(("name", "size"), [("test_convnext", 10), ("convnext_atto", 16)])
def test_images_that_a_network_cannot_take_are_one_line(store: Store, name: str, size: int) -> None:
    """Found while building, before any training; a size that fits leaves no trace."""
    with pytest.raises(ConfigError) as error:
        build(tiny.config(backbone=name, image_size=size), 10, store)
    (line,) = error.value.lines
    assert line.startswith(f"image_size {size}: {name} cannot take such images (")
    assert int(line.rsplit("; it can take ", 1)[1]) >= 160, "the size it was made for"
    fine = build(tiny.config(backbone=name, image_size=32), 10, store)
    assert all(module.training for module in fine.modules())
    assert all(parameter.grad is None for parameter in fine.parameters())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"classifier": "nowhere"}, "backbone test_vit: has no module 'net.nowhere' for its head"),
        ({"num_classes": 7}, "backbone test_vit: its head has 7 classes instead of 10"),
    ],
)
def test_a_head_that_is_not_the_runs_own_is_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], line: str
) -> None:
    create = timm.create_model

    def other(name: str, **options: Any) -> Any:
        net = create(name, **options | {k: v for k, v in changes.items() if k in options})
        net.pretrained_cfg = {**net.pretrained_cfg, **changes}
        return net

    monkeypatch.setattr(timm, "create_model", other)
    with pytest.raises(ConfigError) as error:
        build(tiny.config(image_size=32), 10, store)
    assert error.value.lines == (line,)


def test_random_parts_come_from_the_seed_alone(store: Store) -> None:
    torch.manual_seed(1)
    first = build(config(seed=3), 5, store)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = build(config(seed=3), 5, store)
    assert torch.equal(before, torch.get_rng_state())
    assert same(first.state_dict(), second.state_dict())
    third = build(config(seed=4), 5, store)
    assert not torch.equal(head(first), head(third))


def as_own_checkpoint(model: Classifier, file: Path) -> None:
    """What a finished run leaves behind."""
    store = Store(file.parent / "store")
    run = store.run("r")
    run.path.mkdir(parents=True)
    work = Trainer(config(), tiny.dataset(), model, run, device=tiny.CPU)
    checkpoint.slim(run, work.state())
    run.checkpoint.rename(file)


def as_timm_state(model: Classifier, file: Path) -> None:
    torch.save(model.net.state_dict(), file)


def as_wrapped_state(model: Classifier, file: Path) -> None:
    """As DistributedDataParallel saves it."""
    state = {f"module.{key}": value for key, value in model.net.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "arch": "vit"}, file)


def as_doubly_wrapped_state(model: Classifier, file: Path) -> None:
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)


def as_safetensors(model: Classifier, file: Path) -> None:
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.net.state_dict().items()}, file)


WRITERS: list[tuple[Callable[[Classifier, Path], None], str]] = [
    (as_own_checkpoint, "pt"),
    (as_timm_state, "pth"),
    (as_wrapped_state, "pt"),
    (as_doubly_wrapped_state, "pt"),
    (as_safetensors, "safetensors"),
]


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
def test_a_local_checkpoint_gives_its_body_and_a_new_head(
    store: Store, tmp_path: Path, write: Callable[[Classifier, Path], None], suffix: str
) -> None:
    source = build(config(seed=1), 5, store)
    file = tmp_path / f"weights.{suffix}"
    write(source, file)
    loaded = build(config(seed=2, weights=str(file)), 5, store)
    assert same(body(loaded), body(source))
    # Also where the old head would have fitted.
    assert torch.equal(head(loaded), head(build(config(seed=2), 5, store)))
    assert not torch.equal(head(loaded), head(source))
    wider = build(config(seed=2, weights=str(file)), 11, store)
    assert same(body(wider), body(source)) and head(wider).shape[0] == 11


def test_weights_may_be_named_in_the_store(store: Store, tmp_path: Path) -> None:
    source = build(config(seed=1), 5, store)
    (store.weights / "robust").mkdir(parents=True)
    as_timm_state(source, store.weights / "robust" / "vit.pt")
    loaded = build(config(seed=2, weights="robust/vit.pt"), 5, store)
    assert same(body(loaded), body(source))
    absent = config(weights="robust/swin.pt")
    with pytest.raises(ConfigError, match=r"weights 'robust/swin.pt': no such file .*vit.pt"):
        build(absent, 5, store)
    assert len(missing([absent], store)) == 1, "launching does not find it"


def test_weights_are_not_those_of_the_folder_one_is_in(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.pt").touch()
    monkeypatch.chdir(tmp_path)
    (line,) = missing([config(weights="mine.pt")], store)
    assert line.endswith(f"; write the full path: {tmp_path}/mine.pt")
    assert missing([config(weights=f"{tmp_path}/mine.pt")], store) == []


def refused(store: Store, file: Path, *, backbone: str = "test_vit") -> str:
    with pytest.raises(ConfigError) as error:
        build(config(backbone, weights=str(file)), 5, store)
    assert len(error.value.lines) == 1 and "\n" not in str(error.value)
    assert str(file) in str(error.value)
    return str(error.value)


def test_keys_that_do_not_fit_are_listed(store: Store, tmp_path: Path) -> None:
    state = build(config(), 5, store).net.state_dict()
    state["stranger.weight"] = torch.zeros(1)
    del state["norm.weight"]
    state["pos_embed"] = torch.zeros(1, 2, 3)
    torch.save(state, tmp_path / "x.pt")
    told = refused(store, tmp_path / "x.pt")
    assert "norm.weight missing" in told
    assert "stranger.weight unexpected" in told
    assert "pos_embed of another shape" in told


def test_many_keys_are_cut_short(store: Store, tmp_path: Path) -> None:
    as_timm_state(build(config("test_resnet"), 5, store), tmp_path / "x.pt")
    told = refused(store, tmp_path / "x.pt")
    assert "missing" in told and "unexpected" in told and "more)" in told
    assert len(told) < 700


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_carries_code_is_refused(store: Store, tmp_path: Path, zipped: bool) -> None:
    file, trace = tmp_path / "x.pt", tmp_path / "trace"
    state = {"model": build(config(), 5, store).net.state_dict(), "bomb": Bomb(trace)}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    assert "not a readable checkpoint" in refused(store, file)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists(), "the file was harmless: this test shows nothing"


def test_damaged_files_and_other_things_are_refused(store: Store, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(build(config(), 5, store).net.state_dict(), buffer)
    whole, chance = buffer.getvalue(), random.Random(0)
    contents = {
        "empty.pt": b"",
        "text.pt": b"<html>404</html>",
        "noise.pt": chance.randbytes(3000),
        "half.pt": whole[: len(whole) // 2],
        "noise.safetensors": chance.randbytes(3000),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert "not a readable checkpoint" in refused(store, tmp_path / name)
    for name, value in {"tensor.pt": torch.zeros(3), "list.pt": [1], "plain.pt": {"a": 1}}.items():
        torch.save(value, tmp_path / name)
        assert "expected a state dict" in refused(store, tmp_path / name)


def test_pretrained_weights_that_cannot_be_fetched_are_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="backbone test_vit: cannot load its weights") as error:
        build(config(weights="pretrained"), 5, store)
    assert len(error.value.lines) == 1 and "\n" not in str(error.value)
    assert str(error.value).endswith("; run: sweep weights fetch test_vit")


def test_weights_of_another_architecture_say_what_differs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's first line ends in a colon and names nothing."""

    def create(name: str, **_: Any) -> Any:
        nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ConfigError, match="for Linear: size mismatch for weight: copying") as error:
        build(config(weights="pretrained"), 5, store)
    assert "sweep weights fetch" not in str(error.value), "they are here, and do not fit"

"""The registry of backbones against timm: ids, sizes, LoRA targets, repositories, real steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import core.model.vision  # noqa: F401

import timm  # isort: skip
import timm.models  # isort: skip
from timm.data import constants  # isort: skip

from core.attack import apgd
from core.config import ConfigError, RunConfig, registry
from core.config.registry import backbones
from core.data import inputs
from core.model import lora, pretrained, trainable
from core.model import network as networks
from core.store.folders import Store
from sweep.grid import load_grid

SIX = ("vit", "swin", "cnx", "r50", "clipvit", "clipcnx")
ROBUST = ("robvit", "robswin", "robcnx", "robr50")


def test_the_ten_of_the_paper_come_first() -> None:
    assert tuple(backbones())[:10] == (*SIX, *ROBUST)
    assert {entry.family for entry in backbones().values()} == {
        "attention",
        "convolution",
        "hybrid",
    }


def test_the_forty_of_the_guide_are_there() -> None:
    """By the guide's own name, which is the key, its timm id or the field `guide`."""
    own = {name for name in backbones() if not name.startswith(("mini_", "rob"))}
    robust = {name for name in backbones() if name.startswith("robust_")}
    assert len(own) == 35 and len(robust) == 5
    renamed = {entry.guide for entry in backbones().values()} - {None}
    assert renamed == {
        "CLIP-convnext_base_w-laion2B-s13B-b82K",
        "CLIP-convnext_base_w-laion_aesthetic-s13B-b82K",
        "efficientnet-b0",
        "mobilevit-small",
    }


def test_statistics_of_the_guide_are_its_codes() -> None:
    """CLIP's for ids with "laion", ImageNet's for all others; the registry marks the twelve whose
    weights were made with others."""
    differing = set()
    for name, entry in backbones().items():
        if name.startswith("mini_"):
            continue
        cfg = timm.models.get_pretrained_cfg(entry.timm)
        own = entry.mean or cfg.mean, entry.std or cfg.std
        clip = "laion" in (entry.guide or entry.timm)
        guide = (
            (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD)
            if clip
            else (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD)
        )
        if own != guide:
            assert entry.guide_norm == "imagenet" and not clip, name
            differing.add(name)
    assert differing == {n for n, entry in backbones().items() if entry.guide_norm}
    assert len(differing) == 12


LATER = [pytest.param(n, marks=pytest.mark.slow) for n in backbones() if n not in (*SIX, *ROBUST)]


@pytest.mark.parametrize("name", [*SIX, *LATER])
def test_entry_is_what_timm_builds(name: str) -> None:
    """Size and cost of the trunk, and modules for LoRA that are linear or plain convolutions, no
    head."""
    entry = backbones()[name]
    with torch.device("meta"):
        net = timm.create_model(entry.timm, num_classes=7)
    head = net.pretrained_cfg["classifier"]
    trunk = {k: p for k, p in net.named_parameters() if not k.startswith(f"{head}.")}
    assert sum(p.numel() for p in trunk.values()) == entry.params
    assert net.get_submodule(head).weight.shape[0] == 7
    with FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert entry.gflops == pytest.approx(counter.get_total_flops() / 1e9, rel=0.02)
    own = entry.checkpoint or name.startswith("mini_")
    assert entry.licence == ("" if own else net.pretrained_cfg["license"])
    assert entry.lora
    for target in entry.lora:
        found = [m for key, m in net.named_modules() if key.endswith(f".{target}")]
        assert found and all(isinstance(m, nn.Linear | nn.Conv2d) for m in found), target
        assert all(m.groups == 1 for m in found if isinstance(m, nn.Conv2d)), target
        assert all_called(net, found), f"{target}: weights used without a call escape an adapter"


def all_called(net: Any, modules: list[nn.Module]) -> bool:
    """Whether a forward at the size of the pretraining calls each of these."""
    called: set[nn.Module] = set()
    for module in modules:
        module.register_forward_pre_hook(lambda module, inputs: called.add(module))
    net.eval()(torch.zeros(1, *net.pretrained_cfg["input_size"], device="meta"))
    return called == set(modules)


@pytest.mark.parametrize("name", ROBUST)
def test_a_robust_backbone_has_the_shape_of_its_plain_one(name: str) -> None:
    robust, plain = backbones()[name], backbones()[name.removeprefix("rob")]
    assert plain.timm.startswith(f"{robust.timm}.")
    assert (robust.params, robust.lora) == (plain.params, plain.lora)
    assert robust.checkpoint and registry.hub_repo(name) is None


def test_shorthands_never_hide_another_model() -> None:
    """A timm id becomes a shorthand only where that is the very same thing."""
    assert registry.canonical_backbone("resnet50.a1_in1k") == "r50"
    for plain in ("resnet50", "convnext_base", "swin_base_patch4_window7_224", "test_resnet"):
        assert registry.canonical_backbone(plain) == plain


def test_hub_repositories_are_timms() -> None:
    """Read from timm's source without importing it; compared with what timm says itself."""
    found = {
        k: v for text in registry._timm_sources() for k, v in registry._hub_repos(text).items()
    }
    known = {name: found.get(name) for name in timm.list_pretrained()}
    wrong = {
        name: repo
        for name, repo in known.items()
        if repo and repo != timm.models.get_pretrained_cfg(name).hf_hub_id
    }
    assert wrong == {}
    assert sum(repo is not None for repo in known.values()) > 0.9 * len(known)
    named = [name for name, entry in backbones().items() if not entry.checkpoint]
    without = [name for name in named if registry.hub_repo(name) is None]
    assert without == ["mini_convnext", "mini_resnet"]


def config(name: str, **fields: Any) -> RunConfig:
    base = {"backbone": name, "weights": "random", "dataset": "cars", "epsilon_g": "4/255"}
    return RunConfig.parse(base | fields)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIX)
def test_a_real_step_at_real_size(name: str, store: Store) -> None:
    """224 pixels, 196 classes, one image: the parameters, the new head, and one step of
    adversarial training whose gradient reaches every one of them and lowers the loss."""
    model = networks.build(config(name), 196, store)
    head = model.net.get_submodule(model.net.pretrained_cfg["classifier"])
    assert isinstance(head, nn.Linear) and head.out_features == 196
    count = sum(p.numel() for p in model.parameters())
    assert count - 196 * (head.in_features + 1) == backbones()[name].params
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([5])
    with torch.no_grad():
        clean = F.cross_entropy(model.eval()(x), y)
    adversarial, *_ = apgd.run_apgd(model, x, y, epsilon=4 / 255, steps=1)
    assert 0 < (adversarial - x).abs().max() <= 4 / 255 + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    attacked = F.cross_entropy(model(adversarial), y)
    assert attacked >= clean
    attacked.backward()
    bad = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert bad == []
    optimizer.step()
    with torch.no_grad():
        assert F.cross_entropy(model(adversarial), y) < attacked


@pytest.mark.slow
@pytest.mark.parametrize("name", SIX)
def test_a_real_lora_step_at_real_size(name: str, store: Store) -> None:
    """As above, with adapters: gradients reach the head and every adapter, and nothing else."""
    run = config(name, protocol="lora", lora={"rank": 8})
    model = networks.build(run, 196, store)
    trainable.prepare(model, run)
    trainable.train_mode(model, run)
    names = lora.adapted(model)
    assert {n.rpartition("net.")[2].split(".")[-1] for n in names} == {
        target.split(".")[-1] for target in backbones()[name].lora
    }
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)  # residual branches of random weights begin at 0
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([5])
    adversarial, *_ = apgd.run_apgd(model, x, y, epsilon=4 / 255, steps=1)
    assert 0 < (adversarial - x).abs().max() <= 4 / 255 + 1e-6
    groups = trainable.groups(model, run)
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    attacked = F.cross_entropy(model.eval()(adversarial), y)
    attacked.backward()
    heads = trainable.head_names(model)
    wanted = {k for k, _ in model.named_parameters() if ".lora_" in k or trainable.is_in(k, heads)}
    reached = {k for k, p in model.named_parameters() if p.grad is not None}
    assert reached == wanted and len(wanted) == 2 * len(names) + 2
    # B begins at 0, so that A has no gradient before the first step.
    moving = [p.grad for k, p in model.named_parameters() if "lora_B" in k and p.grad is not None]
    assert all(grad.isfinite().all() and grad.any() for grad in moving)
    optimizer.step()
    with torch.no_grad():
        assert F.cross_entropy(model(adversarial), y) < attacked


# Local checkpoints: the same weights in the forms in which they are handed round.


def network(architecture: str, seed: int, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(architecture, **options)


State = dict[str, Tensor]
NORMALISATION = {"mean": torch.zeros(3), "std": torch.ones(3)}

FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "another head": lambda state: state | {"fc.weight": torch.zeros(3, 3)},
    "no head": lambda state: {k: v for k, v in state.items() if not k.startswith("fc")},
    "a training checkpoint": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {}},
    "distributed": lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
    "with normalisation": lambda state: {
        **{f"normalize.{k}": v for k, v in NORMALISATION.items()},
        **{f"model.{k}": v for k, v in state.items()},
    },
    "with an attacker": lambda state: {
        "model": {
            **{f"module.attacker.model.{k}": v + 1 for k, v in state.items()},
            **{f"module.model.{k}": v for k, v in state.items()},
            "module.normalizer.new_mean": torch.zeros(3),
        }
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_in_every_form(form: str, tmp_path: Path) -> None:
    source, net = network("test_resnet", 0, num_classes=9), network("test_resnet", 1, num_classes=4)
    fresh_head = net.fc.weight.clone()
    torch.save(FORMS[form](source.state_dict()), tmp_path / "x.pth")
    pretrained.load_weights(net, tmp_path / "x.pth")
    assert torch.equal(net.fc.weight, fresh_head), "the head is the run's own"
    for key, value in source.state_dict().items():
        if not key.startswith("fc"):
            assert torch.equal(net.state_dict()[key], value), key


def old_swin(state: State) -> State:
    """Names of the first Swin releases: downsampling ends a stage, buffers are saved too."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts).replace("head.fc", "head")] = value
    return renamed | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}


def test_names_of_an_older_release_are_converted(tmp_path: Path) -> None:
    options = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2)}
    source = network("swin_base_patch4_window7_224", 0, num_classes=9, **options)
    net = network("swin_base_patch4_window7_224", 1, num_classes=4, **options)
    old = old_swin(source.state_dict())
    assert old.keys() != source.state_dict().keys()
    torch.save({"model": old}, tmp_path / "x.pth")
    pretrained.load_weights(net, tmp_path / "x.pth")
    for key, value in source.state_dict().items():
        if not key.startswith("head.fc"):
            assert torch.equal(net.state_dict()[key], value), key


def test_another_architecture_is_one_line(tmp_path: Path) -> None:
    torch.save(network("test_vit", 0).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ConfigError) as error:
        pretrained.load_weights(network("test_resnet", 0), tmp_path / "x.pth")
    (line,) = error.value.lines
    assert line.startswith(
        f"{tmp_path}/x.pth: does not fit ResNet: 0 of 90 names match; conv1.0.weight, "
    )
    assert "missing; " in line and "unexpected" in line


@pytest.fixture
def robust(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small stand-in for a robust backbone of the registry, and the place of its file."""
    entry = registry.Backbone(
        timm="test_resnet", checkpoint=registry.Checkpoint(file="robust/small.pth")
    )
    known = {"small": entry, **backbones()}
    for module in (registry, inputs):
        monkeypatch.setattr(module, "backbones", lambda: known)
    yield store.weights / "robust" / "small.pth"


def test_what_the_demo_has_not_trained_yet_is_made_by_the_demo(store: Store) -> None:
    runs = [run.config for run in load_grid("demo").runs]
    lines = inputs.missing(runs, store)
    assert len(lines) == 2 and all(line.endswith("; run: sweep demo") for line in lines)


def test_a_robust_backbone_is_its_local_file(robust: Path, store: Store) -> None:
    run = tiny.config(backbone="small", weights="pretrained")
    (line,) = inputs.missing([run], store)
    assert line == (
        f"weights 'robust/small.pth': no such file (in {store.weights}: none); "
        f"run: sweep weights convert FILE --to {store.weights}/robust/small.safetensors"
    )
    (line,) = inputs.missing([tiny.config(backbone="robvit", weights="pretrained")], store)
    assert line.endswith("; run: sweep weights fetch robvit"), "it has an address"
    with pytest.raises(ConfigError, match="no such file"):
        networks.build(run, 10, store)
    robust.parent.mkdir(parents=True)
    source = network("test_resnet", 0)
    torch.save(source.state_dict(), robust)
    assert inputs.missing([run], store) == []
    built = networks.build(run, 10, store)
    assert torch.equal(built.net.conv1[0].weight, source.conv1[0].weight)
    fresh = networks.build(tiny.config(backbone="small", weights="random"), 10, store)
    assert not torch.equal(fresh.net.conv1[0].weight, source.conv1[0].weight)
    assert inputs.local_weights(tiny.config(backbone="small", weights="random")) is None


def test_the_yaml_has_no_unknown_keys() -> None:
    text = Path(registry.__file__).with_name("backbones.yaml").read_text()
    assert list(yaml.safe_load(text)) == list(backbones())
    with pytest.raises(ValueError, match="Extra inputs"):
        registry.Backbone(timm="x", weight="y")  # type: ignore[call-arg]

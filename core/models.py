"""Backbones through timm, with a new head and the input normalisation inside the model.

Everything outside sees pixels in [0, 1]; attacks therefore work in pixel space.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import core.vision  # noqa: F401  torchvision must be importable before timm is

import timm  # isort: skip
import timm.models  # isort: skip

from core import lora
from core.config import ConfigError, RunConfig
from core.convolutions import layout
from core.inputs import local_weights, weights_file
from core.parameters import head_names
from core.registry import backbone
from core.rundir import Store
from core.seeds import derive


class Classifier(nn.Module):
    """Logits [B, classes] of images [B, 3, H, W] in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits


def build(config: RunConfig, classes: int, store: Store) -> Classifier:
    """The run's model before training, on the CPU, in the layout that suits its convolutions.

    Random parts (a new head, or everything for weights: random) come from the run's own stream.
    Raises ConfigError where weights cannot be found or do not fit.
    """
    entry = backbone(config.backbone)
    cfg = timm.models.get_pretrained_cfg(entry.timm)
    options: dict[str, Any] = {}
    if entry.group_norm:
        options["norm_layer"] = partial(_group_norm, groups=entry.group_norm)
    if cfg and cfg.fixed_input_size and cfg.input_size[-1] != config.image_size:
        options["img_size"] = config.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        file = local_weights(config)
        net = _create(entry.timm, config.weights == "pretrained" and not file, classes, options)
    if file:
        load_backbone(net, weights_file(file, store))
    mean, std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
    model = Classifier(net, entry.mean or mean, entry.std or std)
    _check_head(model, config.backbone, classes)
    if not cfg or cfg.input_size[-1] != config.image_size:
        _try_size(model, config)
    if config.protocol == "lora":
        lora.adapt(model, config)
    model.to(memory_format=layout(model))  # type: ignore[call-overload]
    return model


def _check_head(model: Classifier, name: str, classes: int) -> None:
    """Raises ConfigError where the network's head is not where it says, or not a new one: some
    architectures ignore how many classes are asked for."""
    modules = dict(model.named_modules())
    for head in head_names(model):
        if head not in modules:
            raise ConfigError(f"backbone {name}: its head '{head}' is not found in it")
        found = getattr(modules[head], "out_features", classes)
        if found != classes:
            raise ConfigError(f"backbone {name}: its head has {found} classes instead of {classes}")


@torch.no_grad()
def _try_size(model: nn.Module, config: RunConfig) -> None:
    """Raises ConfigError where the network cannot take images of the run's size."""
    size = config.image_size
    try:
        model.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"image_size {size}: {config.backbone} cannot take such images ({_reason(error)})"
        ) from None
    finally:
        model.train()


def _group_norm(channels: int, *, groups: int, **_: object) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels)


def _create(name: str, pretrained: bool, classes: int, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=classes, **options)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"backbone {name}: cannot load its weights ({_reason(error)})") from error
    except (TypeError, ValueError, AssertionError) as error:
        if "img_size" not in options:
            raise
        size = options["img_size"]
        raise ConfigError(
            f"image_size {size}: {name} cannot be built for it ({_reason(error)})"
        ) from None


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint (.pt, .pth or .safetensors), wrappers' prefixes removed.

    Raises ConfigError where the file is damaged or holds more than tensors and plain data.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ConfigError(f"{file}: not a readable checkpoint ({_reason(error)})") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"{file}: expected a state dict (name -> tensor)")
    for prefix in ("module.", "net."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    tensors: dict[str, Tensor] = state
    return tensors


def load_backbone(net: Any, file: Path) -> None:
    """Load all but the head from `file`. Its names may have a prefix, or be those of the release
    where timm can convert them. Raises ConfigError listing the keys that do not fit."""
    heads = net.pretrained_cfg["classifier"]
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    own = {k: v for k, v in net.state_dict().items() if not k.startswith(heads)}
    state = _unwrapped(read_state(file), next(iter(own)))
    given = {k: v for k, v in state.items() if not k.startswith(heads)}
    wrong = _misfits(own, given)
    if any(wrong.values()):
        converted = _converted(state, net)
        given = {k: v for k, v in converted.items() if not k.startswith(heads)}
        if any(_misfits(own, given).values()):
            parts = [f"{_some(keys)} {kind}" for kind, keys in wrong.items() if keys]
            raise ConfigError(f"{file}: does not fit {type(net).__name__}: {'; '.join(parts)}")
    net.load_state_dict(given, strict=False)


def _unwrapped(state: dict[str, Tensor], probe: str) -> dict[str, Tensor]:
    """The tensors under the shortest prefix under which `probe` is found: whole models are often
    saved with their input normalisation, or with an attacker that holds the weights once more."""
    prefixes = [key.removesuffix(probe) for key in state if key.endswith(f".{probe}")]
    prefix = "" if probe in state else min(prefixes, key=len, default="")
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _converted(state: dict[str, Tensor], net: Any) -> dict[str, Tensor]:
    """Names as timm's architecture has them now, by timm's own rules for older and other names."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        converted: dict[str, Tensor] = convert(dict(state), net) if convert else state
    except Exception:  # a converter fails in its own way on names it does not know
        return state
    return converted


def _misfits(own: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, list[str]]:
    shapes = [k for k in own if k in given and own[k].shape != given[k].shape]
    return {
        "missing": [k for k in own if k not in given],
        "unexpected": [k for k in given if k not in own],
        "of another shape": shapes,
    }


def _some(keys: list[str]) -> str:
    more = f" (+{len(keys) - 4} more)" if len(keys) > 4 else ""
    return ", ".join(keys[:4]) + more

"""Backbones from timm, with a new head and with input normalisation inside the model.

All other code passes pixels in [0, 1], so attacks work in pixel space.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, assert_never

import torch
from torch import Tensor, nn

import core.model.vision  # noqa: F401  torchvision must be importable before timm is

import timm  # isort: skip
import timm.models  # isort: skip
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # isort: skip

from core.config import ConfigError, RunConfig, own_code
from core.config.registry import backbone
from core.config.seeds import derive
from core.data.inputs import local_weights, weights_part
from core.errors import DamagedError, first_line
from core.model import lora
from core.model.convolutions import layout
from core.model.pretrained import load_weights
from core.model.trainable import head_names
from core.store import checkpoint
from core.store.classes import classes_of
from core.store.files import exists
from core.store.folders import RunDir, Store

log = logging.getLogger("epsweep")


class Classifier(nn.Module):
    """Maps images [B, 3, H, W] in [0, 1] to logits [B, classes]. net: takes normalised images."""

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
    """The run's model before training, on the CPU, in the memory format that suits it.

    Random parts (a new head, or everything for `weights: random`) are drawn from a generator
    derived from the run's seed. Raises ConfigError if weights are missing or do not fit, or the
    network cannot take images of the run's size.
    """
    model = _bare(config, classes, store)
    if config.parent:
        _inherit(model, store.run(config.parent), classes, store)
    if config.adapted:
        lora.adapt(model, config)
    model.to(memory_format=layout(model))  # type: ignore[call-overload]
    return model


def _bare(config: RunConfig, classes: int, store: Store) -> Classifier:
    """The network without adapters; with random weights if those of another run will replace
    them."""
    if own_code.is_own(config.backbone):
        return _own(config, classes, store)
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
        pretrained = config.weights == "pretrained" and not file
        if config.schedule.trains or not pretrained:  # else keep the head that the weights have
            options["num_classes"] = classes
        net = _create(entry.timm, pretrained, options)
    if file:
        _load(net, file, config, store)
    model = Classifier(net, *_statistics(config, net))
    _check_head(model, config.backbone, classes)
    if not cfg or cfg.input_size[-1] != config.image_size:
        _try_size(model, config, cfg.input_size[-1] if cfg else None)
    return model


def load_final(run: RunDir, store: Store) -> tuple[RunConfig, int, Classifier]:
    """Config, number of classes and network of a run whose training has ended, on the CPU. Raises
    ConfigError if it has not, and DamagedError."""
    config = RunConfig.parse(run.read_config(), where=str(run.config))
    state, remarks = checkpoint.load(run)
    if state is None and remarks:
        raise DamagedError(run.checkpoint, remarks[0])
    if state is None:
        raise ConfigError(f"{run.id}: has no checkpoint.pt")
    rows = state["rows"]
    if len(rows) < config.epochs:
        said = "".join(f" ({remark})" for remark in remarks)
        raise ConfigError(f"{run.id}: trained for {len(rows)} of {config.epochs} epochs{said}")
    classes = classes_of(run, config.dataset, rows)
    if classes is None:
        raise ConfigError(f"{run.id}: its folder does not record the number of classes")
    model = build(config.model_copy(update={"weights": "random"}), classes, store)
    try:
        model.load_state_dict(state.get("average", state["model"]))
    except RuntimeError as error:  # timm renames modules between versions
        raise ConfigError(
            f"{run.id}: its weights do not fit the network of this timm version "
            f"({first_line(error)})"
        ) from None
    return config, classes, model


def _inherit(model: Classifier, run: RunDir, classes: int, store: Store) -> None:
    """Give `model` the final weights of a run, with its head; adapters are merged into them."""
    if not exists(run.config):
        raise ConfigError(f"weights: no run {run.id} in {run.path.parent}")
    _, known, trained = load_final(run, store)
    if known != classes:
        raise ConfigError(f"weights: {run.id} has {known} classes, expected {classes}")
    lora.remove(trained)
    model.load_state_dict(trained.state_dict())
    log.info("weights: network, with its head, from run %s", run.id)


def _statistics(config: RunConfig, net: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel by which the model normalises its input."""
    entry = backbone(config.backbone)
    match config.normalisation:
        case "weights":
            cfg = net.pretrained_cfg
            return entry.mean or cfg["mean"], entry.std or cfg["std"]
        case "guide":  # only for backbones whose own statistics differ, see RunConfig
            return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        case _:
            assert_never(config.normalisation)


def rehearse(config: RunConfig, store: Store, classes: int = 2) -> None:
    """Build the run's network once with random weights. Raises ConfigError if that fails.

    First on torch's meta device, which has shapes but no data and takes 0.5 s for most networks.
    That device does not support everything, so a failure counts only if it repeats on the CPU.
    """
    plain = config.model_copy(update={"weights": "random"})
    try:
        with torch.device("meta"):
            build(plain, classes, store)
    except Exception:
        build(plain, classes, store)


def _own(config: RunConfig, classes: int, store: Store) -> Classifier:
    """A network returned by a function of the user's; it gets pixels in [0, 1], not normalised."""
    name, size = config.backbone, config.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        net = own_code.make("backbone", {}, name, (), {"classes": classes})
    if not isinstance(net, nn.Module):
        raise ConfigError(f"backbone {name}: expected an nn.Module, got {type(net).__name__}")
    if file := local_weights(config):
        _load(net, file, config, store)
    model = Classifier(net, mean=(0.0,) * 3, std=(1.0,) * 3)
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, 3, size, size))
    except Exception as error:  # the user's network may raise anything
        raise ConfigError(
            f"backbone {name}: cannot take images of {size} pixels ({first_line(error)})"
        ) from None
    if getattr(logits, "shape", None) != (2, classes):
        got = [*logits.shape] if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"backbone {name}: expected logits [2, {classes}] of 2 images, got {got}")
    model.train()
    return model


def _load(net: nn.Module, file: str, config: RunConfig, store: Store) -> None:
    """Load the weights without those of the head, which is new; with `schedule: none`, all."""
    path, pick = weights_part(file, store)
    log.info("%s", load_weights(net, path, pick, head=not config.schedule.trains))


def _check_head(model: Classifier, name: str, classes: int) -> None:
    """Raises ConfigError if the network lacks the head that timm names, or if its head has another
    number of classes: some architectures ignore `num_classes`."""
    modules = dict(model.named_modules())
    for head in head_names(model):
        if head not in modules:
            raise ConfigError(f"backbone {name}: has no module '{head}' for its head")
        found = getattr(modules[head], "out_features", classes)
        if found != classes:
            raise ConfigError(f"backbone {name}: its head has {found} classes instead of {classes}")


@torch.no_grad()
def _try_size(model: nn.Module, config: RunConfig, usual: int | None) -> None:
    """Raises ConfigError if the network cannot take images of the run's size. usual: the size that
    it was made for, which the message suggests."""
    size = config.image_size
    try:
        model.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"image_size {size}: {config.backbone} cannot take such images ({first_line(error)})"
            + (f"; it can take {usual}" if usual else "")
        ) from None
    finally:
        model.train()


def _group_norm(channels: int, *, groups: int, **_: object) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels)


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError) as error:
        fetch = f"; run: sweep weights fetch {name}" if isinstance(error, OSError) else ""
        raise ConfigError(
            f"backbone {name}: cannot load its weights ({first_line(error)}){fetch}"
        ) from error
    except (TypeError, ValueError, AssertionError) as error:
        if "img_size" not in options:
            raise
        size, cfg = options["img_size"], timm.models.get_pretrained_cfg(name)
        usual = f"; it can take {cfg.input_size[-1]}" if cfg else ""
        raise ConfigError(
            f"image_size {size}: {name} cannot be built for it ({first_line(error)}){usual}"
        ) from None

"""Which weights a run trains, with which learning rate and weight decay.

Full fine-tuning trains everything. Linear probing freezes the backbone and keeps it in evaluation
mode, so that BatchNorm statistics do not change and dropout is off. LoRA freezes the backbone's
weights and trains adapters and head; all modules are in training mode except BatchNorm, whose
statistics belong to the frozen weights. AutoLoRa trains everything, adapters included.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, assert_never

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.config import ConfigError, Optim, RunConfig
from core.config.parts import TRAINS


def heads_of(net: nn.Module) -> tuple[str, ...]:
    """Dotted names of a network's classifier modules (two for distilled models): those that timm
    states, else `head` if it has such a module, else none."""
    own = ("head",) if isinstance(getattr(net, "head", None), nn.Module) else ()
    names = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or own
    return (names,) if isinstance(names, str) else tuple(names)


def head_names(model: nn.Module) -> tuple[str, ...]:
    """`heads_of` with the names that the modules have in the model, which wraps its network as
    `net`."""
    net = getattr(model, "net", model)
    prefix = "net." if net is not model else ""
    return tuple(prefix + name for name in heads_of(net))


def prepare(model: nn.Module, config: RunConfig) -> None:
    """Freeze what the run does not train. Raises ConfigError if the protocol or the optimiser
    treats the head separately, and it is unknown which module that is."""
    optim, heads, trains = config.optim, head_names(model), TRAINS[config.protocol]
    parts = (optim.head_lr, optim.head_weight_decay)
    if not heads and (not trains.backbone or config.adapted or parts != (None, None)):
        raise ConfigError(
            f"{config.backbone} does not say which of its modules is the head; call it 'head' "
            f"(protocol {config.protocol}, autolora or optim.head_* need to know)"
        )
    if trains.backbone:
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_in(name, heads) or (trains.adapters and ".lora_" in name))


def sentence(model: nn.Module) -> str:
    """A line for the log: how many parameters are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained, whole = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
    return f"training {trained:,} of {whole:,} parameters"


def train_mode(model: nn.Module, config: RunConfig) -> None:
    """Set training and evaluation mode of modules as the module docstring says."""
    match config.protocol:
        case "full":
            model.train()
        case "lora":
            model.train()
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        case "linear":
            model.eval()
            for name in head_names(model):
                model.get_submodule(name).train()
        case _:
            assert_never(config.protocol)


def has_batchnorm(model: nn.Module, config: RunConfig) -> bool:
    """Whether training uses batch statistics, so that an image's logits depend on its batch."""
    batchnorm = any(isinstance(module, _BatchNorm) for module in model.modules())
    return batchnorm and TRAINS[config.protocol].backbone


def groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser, backbone before head. `peak` is the learning rate after
    warm-up. Vectors and scalars (biases, norms, layer scales) do not decay, nor, with
    `no_decay: library`, do the parameters that timm lists."""
    heads = head_names(model)
    match no_decay := config.optim.no_decay:
        case "vectors":
            exempt = frozenset[str]()
        case "library":
            exempt = listed(model)
        case _:
            assert_never(no_decay)
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (is_in(name, heads), parameter.ndim > 1 and name not in exempt)
            found.setdefault(key, []).append(parameter)
    return [
        {
            "params": found[key],
            "peak": _of_head(config.optim, "lr", key[0]),
            "weight_decay": _of_head(config.optim, "weight_decay", key[0]) if key[1] else 0.0,
        }
        for key in sorted(found)
    ]


def listed(model: nn.Module) -> frozenset[str]:
    """Dotted names of the parameters that the network's timm module exempts from weight decay, by
    its `no_weight_decay`; empty for networks without such a list."""
    net = getattr(model, "net", model)
    prefix = "net." if net is not model else ""
    patterns = [prefix + name for name in getattr(net, "no_weight_decay", set)()]
    names = (name for name, _ in model.named_parameters())
    return frozenset(name for name in names if any(fnmatchcase(name, one) for one in patterns))


def _of_head(optim: Optim, name: str, head: bool) -> float:
    own: float | None = getattr(optim, f"head_{name}") if head else None
    common: float = getattr(optim, name)
    return common if own is None else own


def is_in(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a dotted name is inside one of these modules."""
    return any(name.startswith(f"{module}.") for module in modules)

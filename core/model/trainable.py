"""Which weights a run trains: head and backbone, each with its learning rate and weight decay, and
which of them do not decay.

Full fine-tuning trains everything. Linear probing freezes the backbone and keeps it in evaluation
mode, so that its BatchNorm statistics and its dropout stay out of the training too. With LoRA the
backbone's own weights are frozen, adapters and head are trained; all is in training mode but
BatchNorm, whose statistics belong to the frozen weights.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, assert_never

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.config import ConfigError, Optim, RunConfig


def heads_of(net: nn.Module) -> tuple[str, ...]:
    """Dotted names of a network's classifier modules (two for distilled models): as timm states
    them, else its module `head`; empty if it has none."""
    own = ("head",) if isinstance(getattr(net, "head", None), nn.Module) else ()
    names = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or own
    return (names,) if isinstance(names, str) else tuple(names)


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The same by their names in the model, which wraps its network as `net`."""
    net = getattr(model, "net", model)
    prefix = "net." if net is not model else ""
    return tuple(prefix + name for name in heads_of(net))


def prepare(model: nn.Module, config: RunConfig) -> None:
    """Freeze what the run does not train. Raises ConfigError where a head is needed and none is
    known."""
    optim, heads = config.optim, head_names(model)
    parts = (optim.head_lr, optim.head_weight_decay)
    if not heads and (config.protocol != "full" or parts != (None, None)):
        raise ConfigError(
            f"protocol {config.protocol}, optim.head_*: {config.backbone} does not say which of "
            "its modules is the head; call it 'head'"
        )
    match config.protocol:
        case "full":
            return
        case "linear":
            adapters = False
        case "lora":
            adapters = True
        case _:
            assert_never(config.protocol)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_in(name, heads) or (adapters and ".lora_" in name))


def sentence(model: nn.Module) -> str:
    """How many parameters train, for the log."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained, whole = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
    return f"training {trained:,} of {whole:,} parameters"


def train_mode(model: nn.Module, config: RunConfig) -> None:
    """Training mode for what the run trains, evaluation mode for the rest."""
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
    """Whether what a training step computes of an image depends on those beside it."""
    return config.protocol == "full" and any(isinstance(m, _BatchNorm) for m in model.modules())


def groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """Parameter groups of the optimiser: backbone before head, `peak` being the learning rate at
    the top of its schedule. Vectors and scalars (biases, norms, layer scales) do not decay, with
    `no_decay: library` neither does what timm lists."""
    heads = head_names(model)
    exempt = listed(model) if config.optim.no_decay == "library" else frozenset()
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
    """Whether a parameter's dotted name lies in one of these modules."""
    return any(name.startswith(f"{module}.") for module in modules)

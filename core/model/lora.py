"""Low-rank adaptation (Hu et al. 2021) through the optional package peft: frozen weights W become
W + alpha / rank * B A, and only A, B and the head are trained (see core.model.trainable).

AutoLoRa trains W, too: there calls of the model use the adapters only within `branch`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from core.config import ConfigError, RunConfig, nearest
from core.config.registry import backbone
from core.config.seeds import derive
from core.errors import first_line
from core.model.trainable import head_names, is_in


def require() -> Any:
    """The module peft. Raises ConfigError if it is not installed or does not fit its own needs."""
    try:
        import peft
    except ImportError as error:
        how = "pip install 'epsweep[lora]'"
        if error.name != "peft":
            how = f"its import fails ({first_line(error)}); {how} --upgrade"
        raise ConfigError(f"LoRA needs the package peft: {how}") from None
    return peft


def adapt(model: nn.Module, config: RunConfig) -> None:
    """Add adapters to the target modules of `model`, on the CPU, in place. They have no effect at
    first (B = 0); A is drawn from a generator derived from the run's seed. AutoLoRa's are off.

    Raises ConfigError if peft is missing, a target matches no module, or the network reads a
    target's weights without calling it.
    """
    peft = require()
    wanted = config.lora.targets or backbone(config.backbone).lora
    chosen = _modules(model, wanted, config.backbone)
    asked = peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=chosen,
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(derive(config.seed, "lora"))
        # peft warns that adapters of grouped convolutions cannot be merged; training merges none.
        warnings.filterwarnings("ignore", "LoRA adapter added to ConvNd", UserWarning)
        try:
            peft.inject_adapter_in_model(asked, model)
        except (ValueError, NotImplementedError) as error:  # such as a rank that no group allows
            raise ConfigError(f"lora: {config.backbone}: {first_line(error)}") from None
    _must_be_called(model, chosen, config)
    if config.objective.adapts:
        for parameter in trained:  # peft has frozen them
            parameter.requires_grad_(True)
        _switch(model, on=False)


@contextmanager
def branch(model: nn.Module) -> Iterator[None]:
    """Context manager: calls of `model` use its adapters and train only these and the head."""
    heads = head_names(model)
    frozen = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_" not in name and not is_in(name, heads)
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        _switch(model, on=True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        _switch(model, on=False)


def _switch(model: nn.Module, *, on: bool) -> None:
    for name in adapted(model):
        layer: Any = model.get_submodule(name)
        layer.enable_adapters(on)  # which also freezes adapters that are off
        for own, parameter in layer.named_parameters():
            if own.startswith("lora_"):
                parameter.requires_grad_(True)


def adapted(model: nn.Module) -> list[str]:
    """Dotted names of the modules that have an adapter."""
    return [name for name, module in model.named_modules() if hasattr(module, "lora_A")]


def remove(model: nn.Module) -> None:
    """Turn `model` into a plain network, in place: adapters are added to the weights that they
    adapt, or dropped if they are off. Raises ConfigError for a module whose adapter cannot be added
    (a grouped convolution)."""
    for name in adapted(model):
        layer: Any = model.get_submodule(name)
        try:
            if not layer.disable_adapters:
                layer.merge(safe_merge=True)
        except Exception as error:  # peft raises exceptions of several types
            raise ConfigError(
                f"lora: the adapter of {name} cannot be merged ({first_line(error)})"
            ) from None
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.get_base_layer())


def sentence(model: nn.Module, config: RunConfig) -> str:
    """A line for the log: which modules are adapted, and how many."""
    names = adapted(model)
    return f"LoRA of rank {config.lora.rank} on {len(names)} modules: {_kinds(names)}"


def _kinds(names: Sequence[str]) -> str:
    """'12 attn.proj, 12 attn.qkv': counts of the last two parts of names, without numbers."""
    parts = (name.split(".")[-2:] for name in names)
    counted = Counter(".".join(part for part in pair if not part.isdigit()) for pair in parts)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items()))


def _modules(model: nn.Module, targets: Sequence[str], owner: str) -> list[str]:
    """Full names of the linear layers and convolutions whose names end in a target, except the
    head, which is trained as a whole. Raises ConfigError if a target matches none."""
    heads = head_names(model)
    known = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not is_in(f"{name}.", heads)
    ]
    found = []
    for target in targets:
        ends = [name for name in known if f".{name}".endswith(f".{target}")]
        if not ends:
            near = nearest(target, _endings(known))
            raise ConfigError(
                f"lora.targets: '{target}' is no linear layer or convolution of {owner}{near}"
            )
        found += ends
    return sorted(set(found))


def _endings(names: Sequence[str]) -> list[str]:
    """Possible targets: the last parts of names without block numbers, most frequent first."""
    parts = [name.split(".") for name in names]
    counted = Counter(".".join(p[-2:]) if not p[-2].isdigit() else p[-1] for p in parts if p[1:])
    counted.update(p[-1] for p in parts if not p[-1].isdigit())
    return [name for name, _ in counted.most_common()]


@torch.no_grad()
def _must_be_called(model: nn.Module, chosen: Sequence[str], config: RunConfig) -> None:
    """Raises ConfigError if a forward does not call all chosen modules. Some networks read a
    layer's weights without calling it (fused attention); its adapter would do nothing."""
    called: set[str] = set()
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: called.add(name)
        )
        for name in chosen
    ]
    model.eval()(torch.zeros(1, 3, config.image_size, config.image_size))
    model.train()
    for hook in hooks:
        hook.remove()
    if idle := [name for name in chosen if name not in called]:
        raise ConfigError(
            f"lora.targets: {config.backbone} uses the weights of {_kinds(idle)} without calling "
            "these modules, so adapters there would do nothing; choose other modules"
        )

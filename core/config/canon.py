"""Parts of a config, with the fields reset that a run does not use: a field without effect must not
change the run's id."""

from __future__ import annotations

from typing import Any

from core.config.parts import OBJECTIVES, TRAINS, Lora, Objective, Optim, Protocol
from core.config.registry import backbone


def optim_used(optim: Optim, protocol: Protocol) -> Optim:
    """Reset fields without effect: head_lr and head_weight_decay if only the head is trained or if
    they equal the backbone's, `no_decay` without weight decay or if the backbone is frozen."""
    changes: dict[str, Any] = {}
    if not TRAINS[protocol].backbone or not optim.weight_decay:
        changes["no_decay"] = "vectors"
    for name in ("lr", "weight_decay"):
        common, head = getattr(optim, name), getattr(optim, f"head_{name}")
        if not any(TRAINS[protocol]) and head is not None:
            changes[name] = common = head
        if head == common:
            changes[f"head_{name}"] = None
    return optim.model_copy(update=changes) if changes else optim


def objective_used(objective: Objective, protocol: Protocol, attacks: bool) -> Objective:
    """Reset fields without effect; without an attack, every built-in objective is plain
    cross-entropy. Raises ValueError for AutoLoRa if the protocol does not train the whole network.
    """
    kind = objective.kind
    if kind == "at" or (kind in OBJECTIVES and not attacks):
        return Objective()
    if not objective.adapts:
        return objective
    if not TRAINS[protocol].backbone:
        raise ValueError(
            "protocol: autolora trains the whole network, with adapters beside it, expected full, "
            f"got {protocol}"
        )
    return Objective(kind=kind)


def lora_used(lora: Lora, adapted: bool, name: str) -> Lora:
    """The defaults if there are no adapters; else `lora` with its targets sorted, or () in place of
    the registry's targets. Raises ValueError if neither config nor registry names a target."""
    if not adapted:
        return Lora()
    known = backbone(name).lora
    if not lora.targets and not known:
        raise ValueError(
            f"lora.targets: no target modules are known for '{name}', name some of its linear "
            "layers or convolutions, e.g. lora.targets: [attn.qkv, attn.proj]"
        )
    targets = tuple(sorted(set(lora.targets)))
    return lora.model_copy(update={"targets": () if targets == tuple(sorted(known)) else targets})

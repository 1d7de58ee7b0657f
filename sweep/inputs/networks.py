"""Networks of a grid, each built once before a launch: a misfit fails here, not on a node."""

from __future__ import annotations

from collections.abc import Iterable

from core.config import ConfigError, RunConfig
from core.config.registry import backbones
from core.store.folders import Store

USUAL = 224
"""Pixels at which every shorthand is known to be built, with LoRA on its own modules, too."""


def misfits(configs: Iterable[RunConfig], store: Store) -> list[str]:
    """One line per network that cannot be built as a run asks for it: for its image size (the line
    names the one it was made for), its LoRA modules, its head. Imports torch if there is a network
    to try."""
    kinds = {(c.backbone, c.image_size, c.protocol, c.lora): c for c in configs if not _known(c)}
    problems = []
    for config in kinds.values():
        from core.model import network  # imports torch

        try:
            network.rehearse(config, store)
        except ConfigError as error:
            problems.append(error.lines[0])
    return problems


def _known(config: RunConfig) -> bool:
    return (
        config.backbone in backbones()
        and config.image_size == USUAL
        and not (config.protocol == "lora" and config.lora.targets)
    )

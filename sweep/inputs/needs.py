"""What runs need before a launch: data, weights, packages, and a network that can be built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.config import ConfigError, EvalConfig, RunConfig
from core.config.registry import backbones, hub_repo
from core.data import inputs
from core.store.folders import Store
from slurm.profile import Profile
from sweep.inputs import pretrained

USUAL = 224
"""Image side in pixels at which every registered backbone is known to build, with LoRA on its
default modules, too."""
Evals = Iterable[tuple[RunConfig, EvalConfig]]


def require(
    configs: Sequence[RunConfig], store: Store, profile: Profile, evals: Evals = ()
) -> None:
    """Raise ConfigError if runs lack data, weights or packages. If they will run on another
    machine, also if a network cannot be built: on this one, runs would show that within seconds."""
    problems = missing(configs, store, profile, evals)
    if profile.remote:
        problems = problems or misfits(configs, store)
    if problems:
        raise ConfigError(*problems)


def missing(
    configs: Iterable[RunConfig], store: Store, profile: Profile, evals: Evals = ()
) -> list[str]:
    """One line for each dataset, checkpoint or package that is missing here, and for each
    evaluation that cannot be done for its run."""
    return inputs.missing(configs, store, hub=pretrained.required_hub(profile), evals=evals)


def to_download(configs: Iterable[RunConfig], profile: Profile) -> list[str]:
    """The backbones whose pretrained weights are not in the hub cache yet."""
    hub = pretrained.hub_of(profile)
    names = dict.fromkeys(c.backbone for c in configs if c.weights == "pretrained")
    return [n for n in names if (repo := hub_repo(n)) and not inputs.cached_weights(repo, hub)]


def misfits(configs: Iterable[RunConfig], store: Store) -> list[str]:
    """One line for each network that cannot be built as a run asks for it, with its image size (the
    line names one that works), LoRA modules and head. Imports torch if there is a network to
    try."""
    kinds = {
        (c.backbone, c.image_size, c.protocol, c.adapted, c.lora): c
        for c in configs
        if not _known(c)
    }
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
        and not (config.adapted and config.lora.targets)
    )

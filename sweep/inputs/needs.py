"""What runs need before a launch: data, weights, packages, and a network that can be built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from core.config import ConfigError, EvalConfig, RunConfig, own_code
from core.config.registry import backbone, backbones, hub_repo
from core.config.values import delta_of, hashed, safe_name
from core.data import inputs
from core.store.files import exists
from core.store.folders import Store
from core.store.json_files import write_json
from slurm.profile import Profile
from sweep.inputs import pretrained

USUAL = 224
"""Image side in pixels at which every registered backbone is known to build, with LoRA on its
default modules, too."""
SMALLEST = 32
"""Image side in pixels from which every registered convolutional backbone is known to build, again
with LoRA, too."""
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
    line names one that works), LoRA modules and head. Imports torch if there is a network to try:
    those that fit are remembered in <root>/index/networks, unless another one does not."""
    kinds = {
        (c.backbone, c.image_size, c.protocol, c.adapted, c.lora): c
        for c in configs
        if not _known(c)
    }
    problems, fitting = [], {}
    for config in kinds.values():
        kind = _kind(config)
        name = f"{safe_name(config.backbone)}-{hashed(kind)}.json"
        place = store.root / "index" / "networks" / name
        if not own_code.is_own(config.backbone):  # which may import what is not known to be its own
            if exists(place):
                continue
            fitting[place] = kind
        from core.model import network  # imports torch

        try:
            network.rehearse(config, store)
        except ConfigError as error:
            problems.append(error.lines[0])
    if not problems:  # a refused launch writes nothing
        with suppress(OSError):  # a read-only store remembers nothing
            for place, kind in fitting.items():
                write_json(place, kind)
    return problems


def _kind(config: RunConfig) -> dict[str, Any]:
    """Everything that decides whether a network can be built."""
    return {
        "backbone": backbone(config.backbone).model_dump(),
        "image_size": config.image_size,
        "protocol": config.protocol,
        "lora": delta_of(config.lora) if config.adapted else None,
        **_builders(),
    }


@cache
def _builders() -> dict[str, Any]:
    """Versions of the libraries, None if one is not installed, and a digest of our own code."""
    versions: dict[str, str | None] = dict.fromkeys(("torch", "torchvision", "timm", "peft"))
    for name in versions:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    modules = (file for file in files("core.model").iterdir() if file.name.endswith(".py"))
    ours = sorted(file.read_text("utf-8") for file in modules)
    return versions | {"core.model": sha256("".join(ours).encode()).hexdigest()}


def _known(config: RunConfig) -> bool:
    entry = backbones().get(config.backbone)
    if entry is None or (config.adapted and config.lora.targets):
        return False
    fits_all = entry.family == "convolution" and config.image_size >= SMALLEST
    return fits_all or config.image_size == USUAL

"""What a run needs on this machine besides its config: images, checkpoints, pretrained weights.

Torch-free, so that `sweep launch` can check it before submitting anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from core.config import ConfigError, EvalConfig, RunConfig
from core.config.datasets import entries
from core.config.names import parent_of
from core.config.registry import (
    MADE,
    PROCEDURAL,
    SYNTHETIC,
    backbone,
    backbones,
    hub_repo,
    known_classes,
)
from core.config.values import at_home
from core.datasets import prepared
from core.datasets.own import SPLITS, checked, class_folders, survey
from core.store.folders import Store

DRAWN_SIZE = 32
"""Image size of the procedural datasets, whatever `image_size` says."""
CHECKPOINTS = (".pt", ".pth", ".safetensors")


def is_drawn(dataset: str) -> bool:
    """Whether a dataset is drawn in memory and needs nothing on disk."""
    return dataset in PROCEDURAL or dataset in SYNTHETIC


def dataset_folder(dataset: str, store: Store) -> Path:
    """The folder of a dataset: a path if it has a '/', else a name in the store's data folder."""
    path = at_home(dataset)
    return path if "/" in dataset else store.data / path


def is_own(dataset: str, size: int, store: Store) -> bool:
    """Whether a known name refers to a folder of the user's, recognised by train/, val/ and test/,
    which no official release has. Prepared arrays of the release take precedence."""
    folder = store.data / dataset
    return not prepared.place(dataset, size, store).is_dir() and all(
        (folder / split).is_dir() for split in SPLITS
    )


def weights_file(name: str, store: Store) -> Path:
    """The checkpoint that a config names: a full path, or a file in <root>/weights. Raises
    ConfigError if there is no such file."""
    return weights_part(name, store)[0]


def weights_part(name: str, store: Store) -> tuple[Path, str | None]:
    """The checkpoint that a config names, and NAME of 'file.pt#NAME', the weights in it to use, or
    None. A '#' may also be part of the file's name, which is tried first. Instead of a registered
    checkpoint, its conversion to .safetensors may be there. Raises ConfigError if there is no such
    file.
    """
    ends = [len(name), *(at for at in reversed(range(len(name))) if name[at] == "#")]
    for end in ends:
        path = store.weights / at_home(name[:end])
        if path.is_file():
            return path, name[end + 1 :] if end < len(name) else None
    known = ((n, b.checkpoint) for n, b in backbones().items() if b.checkpoint)
    owner, checkpoint = next(((n, c) for n, c in known if c.file == name), (None, None))
    converted = (store.weights / name).with_suffix(".safetensors")
    if owner and converted.is_file():
        return converted, None
    have = [path for path in store.weights.rglob("*") if path.suffix in CHECKPOINTS]
    listed = ", ".join(sorted(str(p.relative_to(store.weights)) for p in have)[:6]) or "none"
    made = {"demo": "demo", "demo_real": "demo --real"}.get(name.partition("/")[0])
    if checkpoint:
        by_hand = f"weights convert FILE --to {converted}"
        made = f"weights fetch {owner}" if checkpoint.url else by_hand
    hint = f"; run: sweep {made}" if made else ""
    if not made and (os.path.isfile(name) or os.path.isfile(name.partition("#")[0])):
        hint = f"; write the full path: {os.path.abspath(name)}"
    raise ConfigError(f"weights '{name}': no such file (in {store.weights}: {listed}){hint}")


def _check_dataset(dataset: str, size: int, store: Store) -> None:
    """Raises ConfigError if a run could not load its dataset. Does not open images."""
    if dataset not in entries() or is_own(dataset, size, store):
        checked(dataset_folder(dataset, store))
        return
    arrays = prepared.place(dataset, size, store)
    if arrays.is_dir():
        prepared.describe(arrays, entries()[dataset])
    else:
        from core.datasets.read import read_release  # rarely needed, so imported late

        read_release(dataset, store.data / dataset, entries()[dataset])


class Sources(NamedTuple):
    """The fields of a config that name its images and weights."""

    dataset: str
    image_size: int
    backbone: str
    weights: str

    @classmethod
    def of(cls, config: RunConfig) -> Sources:
        return cls(config.dataset, config.image_size, config.backbone, config.weights)


def local_weights(config: RunConfig | Sources) -> str | None:
    """The checkpoint file that a run starts from; None if its weights are timm's, random, or those
    of another run."""
    if config.weights == "pretrained":
        checkpoint = backbone(config.backbone).checkpoint
        return checkpoint.file if checkpoint else None
    return None if config.weights == "random" or parent_of(config.weights) else config.weights


HUB_FILES = (
    *("model.safetensors", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
"""File names of weights in a hub repository, in the order in which timm looks for them."""


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The Hugging Face hub's download cache for a process with these environment variables."""
    home = environ.get("HF_HOME")
    if not home:
        home = f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return at_home(named or f"{home}/hub")


def is_offline(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether these environment variables keep a process from downloading weights."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def cached_weights(repo: str, hub: Path) -> Path | None:
    """The file with the weights of a hub repository in a cache, as a process without internet
    would find it; None if it is not there."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        return None
    files = (folder / "snapshots" / commit / name for name in HUB_FILES)
    return next((file for file in files if file.is_file()), None)


def missing(
    configs: Iterable[RunConfig],
    store: Store,
    *,
    hub: Path | None = None,
    evals: Iterable[tuple[RunConfig, EvalConfig]] = (),
) -> list[str]:
    """One line per dataset, checkpoint or package that this machine lacks for these runs and their
    evaluations, and per evaluation that its run's dataset does not allow.

    hub: the cache in which runs must find pretrained weights; None if they may download them.
    """
    configs = list(configs)
    problems = []
    for dataset, size in dict.fromkeys((c.dataset, c.image_size) for c in configs):
        if not is_drawn(dataset):
            try:
                _check_dataset(dataset, size, store)
            except ConfigError as error:
                made = dataset in MADE and not (store.data / dataset).is_dir()
                why = f"not in {store.data}; run: sweep demo --real" if made else str(error)
                told = "/" in dataset and dataset in why  # the path of a user's folder
                problems.append(why if told else f"dataset {dataset}: {why}")
    for file in dict.fromkeys(map(local_weights, configs)):
        if file:
            try:
                weights_file(file, store)
            except ConfigError as error:
                problems.append(str(error))
    adapted = any(config.adapted for config in configs)
    if adapted and importlib.util.find_spec("peft") is None:
        problems.append("LoRA needs the package peft: pip install 'epsweep[lora]'")
    # Runs of a grid share their evaluation objects; hashing one for each of 100,000 runs is slow.
    each = {(c.dataset, c.image_size, id(item)): (c, item) for c, item in evals}.values()
    asked = dict.fromkeys((config.dataset, config.image_size, item) for config, item in each)
    kinds = dict.fromkeys(item for *_, item in asked)
    problems += dict.fromkeys(line for item in kinds if (line := item.lacking()))
    problems += dict.fromkeys(line for key in asked for line in _unfit(*key, store))
    if hub:
        pretrained = [config.backbone for config in configs if config.weights == "pretrained"]
        problems += [line for name in dict.fromkeys(pretrained) for line in _not_cached(name, hub)]
    return problems


def _unfit(dataset: str, size: int, item: EvalConfig, store: Store) -> Iterator[str]:
    """Why an evaluation cannot take the images of a dataset, judging by its folders."""
    size_there = DRAWN_SIZE if dataset in PROCEDURAL else size
    problem = item.problem(size_there, _classes(dataset, size, store))
    if not problem and item.fewest:
        problem = item.too_few(_sizes(dataset, size, store))
    if problem:
        yield f"dataset {dataset}: {problem}"


def _sizes(dataset: str, size: int, store: Store) -> Mapping[str, int]:
    """Split -> number of images in the user's folder; {} for another dataset, all of which are
    large, and if unreadable."""
    if is_drawn(dataset) or not is_own(dataset, size, store):
        return {}
    found = survey(dataset_folder(dataset, store)).files
    return {split: sum(map(len, classes.values())) for split, classes in found.items()}


def _classes(dataset: str, size: int, store: Store) -> int | None:
    """The number of classes of a known dataset or of the user's folder; None if unreadable."""
    classes = known_classes(dataset)
    if is_drawn(dataset) or (classes is not None and not is_own(dataset, size, store)):
        return classes
    with contextlib.suppress(OSError):
        return len(class_folders(dataset_folder(dataset, store) / "train"))
    return None


def class_names(dataset: str, size: int, store: Store) -> list[str]:
    """The names of a dataset's classes, in the order of their numbers; [] if it is drawn, or not on
    this machine."""
    if is_drawn(dataset):
        return []
    if dataset in entries() and not is_own(dataset, size, store):
        place = prepared.place(dataset, size, store)
        if not place.is_dir():
            return []
        return [*prepared.describe(place, entries()[dataset], miniature=True)["classes"]]
    with contextlib.suppress(OSError):
        return [*class_folders(dataset_folder(dataset, store) / "train")]
    return []


def left_out(configs: Iterable[RunConfig], store: Store) -> list[str]:
    """One line per split of a user's folder that contains files which runs ignore."""
    own = {
        dataset_folder(c.dataset, store): None
        for c in configs
        if not is_drawn(c.dataset)
        and (c.dataset not in entries() or is_own(c.dataset, c.image_size, store))
    }
    return [f"{folder}: {line}" for folder in own for line in survey(folder).remarks]


def _not_cached(name: str, hub: Path) -> Iterator[str]:
    repo = hub_repo(name)
    if repo and not cached_weights(repo, hub):
        yield f"weights of {name}: {repo} is not in {hub}; run: sweep weights fetch {name}"

"""What datasets and checkpoints hold: digests of their content, cheap to ask for again.

A run records the digests of the images and of the weights it was made from. A name or a path alone
would not tell that a folder got more images, or that a checkpoint was replaced. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.config import ConfigError
from core.config.datasets import entries
from core.config.registry import hub_repo
from core.data import inputs
from core.data.inputs import Sources
from core.datasets.own import checked
from core.datasets.prepared import INDEX
from core.errors import DamagedError
from core.store import shapes
from core.store.files import exists
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, write_json

SETTLED_NS = 2_000_000_000
"""A file that changed more recently is read again the next time: a second change within one tick
of its clock would look like none."""

Stat = tuple[int, int, int, int]
"""Size, inode, and ns of the last change of content and of attributes."""


class Known:
    """What datasets and checkpoints hold now. Each is looked at once, however many runs share it;
    a file is read only if it is not the one that was read before (kept in <root>/index/digests)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._prepared = store.data / "prepared"
        self._files: dict[Path, dict[str, Stat]] = {}
        self._digests: dict[Path, str] = {}
        self._inputs: dict[tuple[Sources, Path], dict[str, str | None]] = {}
        self._signatures: dict[Sources, str] = {}

    def inputs(self, sources: Sources, hub: Path | None = None) -> dict[str, str | None]:
        """The digests of a run's images and weights, None if there are none to read here: drawn
        images, random weights, files that are missing. hub: where its hub weights are cached."""
        hub = hub or inputs.hub_cache()
        if (sources, hub) not in self._inputs:
            data, weights = self._data(sources), self._weights(sources, hub)
            self._inputs[sources, hub] = {
                "data": self._digest(data) if data else None,
                "weights": self._digest(weights) if weights else None,
                "hub": str(hub) if weights and not inputs.local_weights(sources) else None,
            }
        return self._inputs[sources, hub]

    def changed(self, sources: Sources, made_from: Mapping[str, Any] | None) -> str | None:
        """Which of its recorded inputs a run would not find any more, in a few words; None if it
        would find them all, or nothing tells."""
        if not made_from:
            return None
        hub = made_from.get("hub")
        now = self.inputs(sources, Path(hub) if hub else None)
        weights = inputs.local_weights(sources) or sources.backbone
        names = {"data": f"images of {sources.dataset}", "weights": f"weights {weights}"}
        for part, name in names.items():
            before = made_from.get(part)
            if before and now[part] and before != now[part]:
                return f"the {name} have changed since it was begun"
        return None

    def signature(self, sources: Sources) -> str:
        """What changes whenever `inputs` may have changed, without reading a file."""
        if sources not in self._signatures:
            places = self._data(sources), self._weights(sources, inputs.hub_cache())
            seen = [sorted(self._stats(place).items()) for place in places if place]
            self._signatures[sources] = _sha256(json.dumps(seen))
        return self._signatures[sources]

    def _data(self, sources: Sources) -> Path | None:
        """The folder that a run's images are in: prepared arrays, or the user's own."""
        if inputs.is_drawn(sources.dataset):
            return None
        name, size = sources.dataset, sources.image_size
        if name not in entries() or inputs.is_own(name, size, self.store):
            return inputs.dataset_folder(name, self.store)
        return self._prepared / f"{name}-{size}"

    def _weights(self, sources: Sources, hub: Path) -> Path | None:
        file = inputs.local_weights(sources)
        if file:
            with suppress(ConfigError):
                return inputs.weights_file(file, self.store)
            return None
        repo = hub_repo(sources.backbone) if sources.weights == "pretrained" else None
        return inputs.cached_weights(repo, hub) if repo else None

    def _stats(self, place: Path) -> dict[str, Stat]:
        """The files of a place by their names in it; {} if it is not there or not whole."""
        if place not in self._files:
            self._files[place] = {}
            with suppress(OSError, ConfigError):
                names = {str(file.relative_to(place)): file for file in self._listed(place)}
                self._files[place] = {name: _stat(os.stat(names[name])) for name in names}
        return self._files[place]

    def _listed(self, place: Path) -> list[Path]:
        if place.is_file():
            return [place]
        if place.parent == self._prepared:  # its index holds the checksums of the arrays
            return [place / INDEX]
        splits = checked(place).files.values()
        return [file for classes in splits for files in classes.values() for file in files]

    def _digest(self, place: Path) -> str | None:
        if place not in self._digests:
            stats = self._stats(place)
            if not stats:
                return None
            if place.parent == self._prepared:
                self._digests[place] = _of_arrays(place / INDEX)
            else:
                self._digests[place] = _of_files(place, stats, self._cache(place))
        return self._digests[place] or None

    def _cache(self, place: Path) -> Path:
        name = hashlib.sha256(str(place).encode()).hexdigest()[:16]
        return self.store.root / "index" / "digests" / f"{name}.json"


def _stat(found: os.stat_result) -> Stat:
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _of_arrays(index: Path) -> str:
    with suppress(DamagedError):
        sums = (read_json(index, shapes.Arrays) or {}).get("checksums", {})
        if "images.npy" in sums and "labels.npy" in sums:
            return _sha256(sums["images.npy"] + sums["labels.npy"])
    return ""


def _of_files(place: Path, stats: Mapping[str, Stat], cache: Path) -> str:
    """Of names and contents: sha256 over 'name, sha256' lines. '' if a file cannot be read."""
    known = _known(cache)
    new = [name for name, stat in stats.items() if known.get(name, [])[:-1] != list(stat)]
    try:
        with ThreadPoolExecutor() as pool:  # hashing releases the GIL
            read = dict(zip(new, pool.map(_of_file, [place / name for name in new]), strict=True))
    except OSError:
        return ""
    found = {name: read.get(name) or known[name][-1] for name in stats}
    if new:
        young = time.time_ns() - SETTLED_NS
        kept = {n: [*stats[n], found[n]] for n in stats if max(stats[n][2:]) < young}
        with suppress(OSError):  # a store that cannot be written to keeps none
            write_json(cache, {"place": str(place), "files": kept})
    return _sha256("".join(f"{name}\t{found[name]}\n" for name in sorted(found)))


def _known(cache: Path) -> dict[str, list[Any]]:
    with suppress(DamagedError, OSError):
        kept: dict[str, list[Any]] = (read_json(cache, shapes.Digests) or {}).get("files", {})
        return kept
    return {}


def _of_file(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def recorded(run: RunDir) -> dict[str, Any] | None:
    """The inputs that a run was made from so far; None if nothing is made yet, or nothing tells (an
    older version has made it, or the file cannot be read)."""
    with suppress(DamagedError):
        result = read_json(run.result, shapes.Result)
        if not run.begun:
            return None
        found: dict[str, Any] | None = (result or {}).get("inputs")
        return found or (read_json(run.env, shapes.Env) or {}).get("inputs")
    return None


def mark(made_from: Mapping[str, Any] | None) -> str:
    """Recorded inputs in one word: what a retry is asked to replace. '' for none."""
    return _sha256(json.dumps(made_from, sort_keys=True))[:16] if made_from else ""


def put_away(run: RunDir) -> Path:
    """Move what a run was made into out of the way, for its owner to begin anew; returns where the
    numbers lie. The weights are deleted."""
    number = 1 + sum(1 for _ in run.replaced.glob("*/"))
    place = run.replaced / f"{number:04d}"
    place.mkdir(parents=True, exist_ok=True)
    for file in run.checkpoints:
        run.remove(file)
    for file in (run.result, *sorted(run.evals.glob("*.*")), run.metrics):
        if exists(file):
            run.copy(file, place / file.name)
            run.remove(file)
    return place

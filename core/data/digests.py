"""Digests of the content of datasets and checkpoints, cached so that asking again is cheap.

A run records the digests of the images and of the weights it was made from. Names and paths alone
would not show that images were added to a folder, or that a checkpoint was replaced. Torch-free.
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
from core.config.names import parent_of
from core.config.registry import hub_repo
from core.data import inputs
from core.data.inputs import Sources
from core.datasets.own import checked
from core.datasets.prepared import INDEX, Arrays
from core.errors import DamagedError
from core.store import shapes
from core.store.files import exists, read
from core.store.folders import ENV, RESULT, RunDir, Store
from core.store.json_files import parse_json, read_json, write_json

SETTLED_NS = 2_000_000_000
"""Digests of files that changed more recently are not cached: a second change within one tick of
the file system's clock would leave no trace."""

Stat = tuple[int, int, int, int]
"""Size, inode, and times in ns of the last change of content and of attributes."""


class Known:
    """Digests of the current datasets and checkpoints. Each is examined once, however many runs
    share it; a file is read only if it changed since its digest was cached in
    <root>/index/digests."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._prepared = store.data / "prepared"
        self._files: dict[Path, dict[str, Stat]] = {}
        self._digests: dict[Path, str] = {}
        self._inputs: dict[tuple[Sources, Path], dict[str, str | None]] = {}
        self._signatures: dict[Sources, str] = {}
        self._hub = inputs.hub_cache()

    def inputs(self, sources: Sources, hub: Path | None = None) -> dict[str, str | None]:
        """The digests of a run's images ('data') and 'weights', None for drawn images, random
        weights and missing files, and the cache folder of its hub weights ('hub'), None if it uses
        none. hub: where to look for hub weights; by default the cache of this process."""
        hub = hub or self._hub
        if (sources, hub) not in self._inputs:
            data, weights = self._data(sources), self._weights(sources, hub)
            self._inputs[sources, hub] = {
                "data": self._digest(data) if data else None,
                "weights": self._digest(weights) if weights else None,
                "hub": str(hub)
                if weights and sources.weights == "pretrained" and not inputs.local_weights(sources)
                else None,
            }
        return self._inputs[sources, hub]

    def changed(self, sources: Sources, made_from: Mapping[str, Any] | None) -> str | None:
        """A short text that names a recorded input that has changed since; None if none has, or if
        that is unknown. made_from: as `recorded`."""
        if not made_from:
            return None
        hub = made_from.get("hub")
        now = self.inputs(sources, Path(hub) if hub else None)
        pretrained = sources.weights == "pretrained"
        weights = inputs.local_weights(sources) or sources[2 if pretrained else 3]
        names = {"data": f"images of {sources.dataset}", "weights": f"weights {weights}"}
        for part, name in names.items():
            before = made_from.get(part)
            if before and now[part] and before != now[part]:
                return f"the {name} have changed since the run began"
        return None

    def signature(self, sources: Sources) -> str:
        """A digest that changes whenever `inputs` may have changed; reads no file's content."""
        if sources not in self._signatures:
            places = self._data(sources), self._weights(sources, self._hub)
            seen = [sorted(self._stats(place).items()) for place in places if place]
            self._signatures[sources] = _sha256(json.dumps(seen))
        return self._signatures[sources]

    def _data(self, sources: Sources) -> Path | None:
        """The folder with a run's images: prepared arrays or the user's; None if drawn."""
        if inputs.is_drawn(sources.dataset):
            return None
        name, size = sources.dataset, sources.image_size
        if name not in entries() or inputs.is_own(name, size, self.store):
            return inputs.dataset_folder(name, self.store)
        return self._prepared / f"{name}-{size}"

    def _weights(self, sources: Sources, hub: Path) -> Path | None:
        if parent := parent_of(sources.weights):
            return self.store.run(parent).checkpoint
        file = inputs.local_weights(sources)
        if file:
            with suppress(ConfigError):
                return inputs.weights_file(file, self.store)
            return None
        repo = hub_repo(sources.backbone) if sources.weights == "pretrained" else None
        return inputs.cached_weights(repo, hub) if repo else None

    def _stats(self, place: Path) -> dict[str, Stat]:
        """The files of a folder by relative path, or a single file; {} if missing or incomplete."""
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
        sums = (read_json(index, Arrays) or {}).get("checksums", {})
        if "images.npy" in sums and "labels.npy" in sums:
            return _sha256(sums["images.npy"] + sums["labels.npy"])
    return ""


def _of_files(place: Path, stats: Mapping[str, Stat], cache: Path) -> str:
    """The digest of names and contents: sha256 of lines 'name, sha256'. '' if one is unreadable."""
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
        with suppress(OSError):  # a read-only store has no cache
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


def recorded(run: RunDir, seen: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The inputs that a run has been made from so far; None if it has not begun or they are unknown
    (an older version made it, or the file cannot be read). seen: as filled by `damage.find`."""

    def content(name: str, shape: object) -> dict[str, Any]:
        path, known = f"{run.path}/{name}", seen or {}
        found = known[name] if name in known else read(path)
        return parse_json(found, path, shape) if isinstance(found, bytes) else found or {}

    with suppress(DamagedError):
        result = content(RESULT, shapes.Result)
        found: dict[str, Any] | None = result.get("inputs")
        found = found or content(ENV, shapes.Env).get("inputs")
        return found if found and (result or run.begun) else None
    return None


def mark(made_from: Mapping[str, Any] | None) -> str:
    """A short digest of recorded inputs, by which a retry names those to replace; '' for none."""
    return _sha256(json.dumps(made_from, sort_keys=True))[:16] if made_from else ""


def put_away(run: RunDir) -> Path:
    """Clear a run's folder, so that its owner can start over: delete checkpoints, move results to
    <run>/replaced/<number>, and return that folder."""
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

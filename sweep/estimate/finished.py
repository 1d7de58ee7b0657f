"""Finished runs of a store, from whose seconds the speed of a device follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from core.config import RunConfig
from core.errors import DamagedError
from core.store import shapes
from core.store.folders import ENV, RESULT, Store
from core.store.json_files import fields, lines, parse_json, read_json
from sweep.estimate.device import is_same

SAMPLE, TRIED = 8, 64
"""Maximum numbers of finished runs per backbone: that count, and that are read, as some were on
another device."""
TOGETHER = 500
"""Number of rows of a manifest that are parsed together."""


class _Schedule(TypedDict):
    kind: NotRequired[str]


class _Config(TypedDict):
    backbone: NotRequired[str]
    schedule: NotRequired[_Schedule]


class _Row(TypedDict):
    """What tells whether a row of a manifest is worth reading, see shapes.Manifest."""

    id: str
    config: _Config


def sample(
    store: Store, device: str, backbones: Collection[str]
) -> Iterator[tuple[RunConfig, float, float]]:
    """(config, seconds of training, number of devices) of some finished runs on such devices, until
    there are enough for `backbones`."""
    taken, tried = Counter[str](), Counter[str]()
    seen = set()
    begun = store.run_ids()

    def enough(name: str) -> bool:
        return taken[name] >= SAMPLE or tried[name] >= TRIED

    for manifest, texts in _manifests(store):
        if backbones and all(map(enough, backbones)):
            return
        for row, text in zip(fields(texts, manifest, _Row), texts, strict=True):
            name = str(row["config"].get("backbone")) if row else ""
            if not row or row["id"] in seen or row["id"] not in begun or enough(name):
                continue
            seen.add(row["id"])
            if row["config"].get("schedule", {}).get("kind") == "auto":
                continue  # says nothing: how many epochs it attacked is not in its config
            folder = f"{store.runs}/{row['id']}"
            try:
                result = read_json(f"{folder}/{RESULT}", shapes.Result) or {}
                tried[name] += bool(result)
                env = read_json(f"{folder}/{ENV}", shapes.Env) if result else None
                if not env or not is_same(str(env.get("device")), device):
                    continue
                config = RunConfig.check(parse_json(text, manifest, shapes.Manifest)["config"])
            except DamagedError:
                continue
            if not isinstance(config, list) and result.get("seconds"):  # a list: no valid config
                taken[name] += 1
                count = env.get("threads" if device == "CPU" else "processes", 1)
                yield config, result["seconds"], count


def _manifests(store: Store) -> Iterator[tuple[Path, list[bytes]]]:
    """(manifest, TOGETHER of its lines) for all lines of the manifests of all sweeps."""
    for manifest in sorted(store.root.glob("sweeps/*/manifest.jsonl")):
        texts = lines(manifest)
        for first in range(0, len(texts), TOGETHER):
            yield manifest, texts[first : first + TOGETHER]

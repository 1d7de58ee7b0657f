"""Names for variants: differences between runs of one cell other than the seed."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from analysis.names import dataset_name, model_name
from analysis.runs import Row
from core.config import RunConfig, Strength
from core.config.names import parent_of
from core.config.values import flat


def variants_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Run id -> how it differs from other runs of its cell ('optim.lr=0.001'), mostly ''.

    Tables average only seeds; runs that differ in anything else are shown separately. rows: of a
    manifest. Hyper-parameters from searches are not named if other fields tell the runs apart.
    """
    found_by_search = {name for row in rows for name in (row.get("tuned") or {}).get("params", ())}
    configs = _with_parents_told(rows)
    cells = defaultdict(list)
    for row in rows:
        config = configs[row["id"]]
        # By the names in tables: different folders may have the same name there.
        names = model_name(config["backbone"]), dataset_name(config["dataset"])
        number = Strength.parse(config["epsilon_g"], config["norm"]).number
        cells[*names, number, row["setting"]].append(config)
    fields: dict[str, None] = {}
    for twins in cells.values():
        if len(twins) > 1:
            fields |= dict.fromkeys(_differing(twins, found_by_search))
    parts = {name.partition(".")[0] for name in fields}
    files = (config["weights"] for config in configs.values()) if "weights" in fields else ()
    folder = _shared_folder(files)
    found = {}
    for run_id, config in configs.items():
        told = _whole({part: config[part] for part in parts & config.keys()})
        texts = {
            n: str(told[n]).removeprefix(folder * (n == "weights")) for n in fields if n in told
        }
        found[run_id] = ", ".join(f"{name}={text}" for name, text in texts.items())
    return found


def _shared_folder(files: Iterable[str]) -> str:
    """The folder, ending in '/', that all files with a full path are in; '' without any."""
    folders = {os.path.dirname(file) for file in files if file.startswith("/")}
    return os.path.commonpath(folders).rstrip("/") + "/" if folders else ""


def fields_of(variant: str) -> dict[str, str]:
    """The fields of a variant: 'objective.kind=at, protocol=full' as a dict."""
    parts = re.split(r", (?=[\w.]+=)", variant) if variant else []
    return {name: value for name, _, value in (part.partition("=") for part in parts)}


def _with_parents_told(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Run id -> config, in which `weights: run:ID` is replaced by how that run differs from this
    one, such as 'run (epochs 5; protocol linear)': the id contains the seed, in which variants must
    not differ."""
    configs = {row["id"]: row["config"] for row in rows}

    def told(config: Mapping[str, Any]) -> Mapping[str, Any]:
        parent = parent_of(config["weights"])
        if parent is None:
            return config
        if parent not in configs:
            return {**config, "weights": f"run {parent.rpartition('-s')[0]}"}
        ours, theirs = dict(flat(config)), dict(flat(told(configs[parent])))
        ours |= {"seed": theirs["seed"], "weights": "pretrained"}
        # Without ', ' and '=', which separate the fields of a variant.
        changed = [f"{n} {theirs[n]}" for n in sorted(theirs) if ours.get(n) != theirs[n]]
        return {**config, "weights": f"run ({'; '.join(changed)})"}

    return {name: told(config) for name, config in configs.items()}


def _differing(configs: Sequence[Mapping[str, Any]], found_by_search: set[str]) -> list[str]:
    """Dotted names of the fields other than the seed that tell the configs apart."""
    plain = [{key: part for key, part in one.items() if key != "seed"} for one in configs]
    if all(one == plain[0] for one in plain):
        return []
    found = [_whole(one) for one in plain]
    names = dict.fromkeys(name for one in found for name in one)
    differing = [name for name in names if _differ(name, [one.get(name) for one in found])]
    # T1 and T2 of a setting follow from the epochs, and every search finds other rates: these are
    # not named if the other fields tell the configs apart.
    for dispensable in (lambda name: name.startswith("schedule."), found_by_search.__contains__):
        others = [name for name in differing if not dispensable(name)]
        if _tell_apart(others, found) == _tell_apart(differing, found):
            differing = others
    return differing


def _tell_apart(names: Sequence[str], configs: Sequence[Row]) -> int:
    """How many of the configs differ in the fields `names`."""
    return len({str([config.get(name) for name in names]) for config in configs})


def _differ(name: str, values: Sequence[Any]) -> bool:
    """Whether a field has several values. A missing digest of the user's code does not count: such
    runs differ in the kind itself."""
    if name.startswith("code."):
        values = [value for value in values if value is not None]
    return any(value != values[0] for value in values)


def _whole(config: Mapping[str, Any]) -> Row:
    """A flat config, with defaults for fields that its epsweep version did not have."""
    return _defaults() | flat(config)


@cache
def _defaults() -> Row:
    return flat(RunConfig(backbone="vit", dataset="fake").to_dict())

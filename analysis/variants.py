"""What sets runs of one cell apart, other than the seed: a name for each such variant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from analysis.names import dataset_name, model_name
from analysis.runs import Row
from core.config import RunConfig, Strength


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted names and values of a nested config."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def variants_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Run id -> what sets it apart from other runs of its cell ('optim.lr=0.001'), mostly ''.

    Only seeds may be averaged; runs of one cell that differ in anything else are other columns.
    """
    cells = defaultdict(list)
    for row in rows:
        config = row["config"]
        # By the names that tables show: two folders may be called the same.
        names = model_name(config["backbone"]), dataset_name(config["dataset"])
        number = Strength.parse(config["epsilon_g"], config["norm"]).number
        cells[*names, number, row["setting"]].append(row)
    fields: dict[str, None] = {}
    for twins in cells.values():
        if len(twins) > 1:
            fields |= dict.fromkeys(_differing([row["config"] for row in twins]))
    found = {}
    for row in rows:
        config = _whole(row["config"]) if fields else {}
        found[row["id"]] = ", ".join(f"{n}={config[n]}" for n in fields if n in config)
    return found


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted names of the fields, other than the seed, in which the configs are not all equal."""
    plain = [{key: part for key, part in one.items() if key != "seed"} for one in configs]
    if all(one == plain[0] for one in plain):
        return []
    found = [_whole(one) for one in plain]
    names = dict.fromkeys(name for one in found for name in one)
    return [name for name in names if _differ(name, [one.get(name) for one in found])]


def _differ(name: str, values: Sequence[Any]) -> bool:
    """Whether a field has several values. A digest of own code that lacks says nothing: then the
    kind is another one."""
    if name.startswith("code."):
        values = [value for value in values if value is not None]
    return any(value != values[0] for value in values)


def _whole(config: Mapping[str, Any]) -> Row:
    """A config flat, with the defaults of fields that are younger than what wrote it."""
    return _defaults() | dict(flat(config))


@cache
def _defaults() -> Row:
    return dict(flat(RunConfig(backbone="vit", dataset="fake").to_dict()))

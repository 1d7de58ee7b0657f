"""Which runs a table is about: those of a grid's manifest, or every run of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from analysis.kinds import Config
from analysis.runs import Row, Run
from analysis.variants import variants_of
from core.config import ConfigError, RunConfig, Strength
from core.data.digests import Known
from core.errors import DamagedError
from core.store import shapes
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, salvage, warn_once


def runs_of(store: Store, manifest: Sequence[Mapping[str, Any]] | None) -> list[Run]:
    """The runs of a manifest, or every run of the store. Raises ConfigError for none at all."""
    rows = [_respelled(row) for row in (manifest if manifest is not None else _every_run(store))]
    if not rows:
        raise ConfigError(f"{store.root}: no runs here; `sweep launch` a grid first")
    variants = variants_of(rows)
    known = Known(store)
    # A run whose evaluations nothing tells is asked for those of the others.
    usual: Iterable[str] = next((row["evals"] for row in rows if row["evals"]), ())
    configs = _evaluations(store, rows)
    return [
        Run(
            store.run(row["id"]),
            row["config"],
            row["setting"],
            variants[row["id"]],
            {name: configs[name] for name in row["evals"] or usual},
            row.get("tuned"),
            known,
        )
        for row in rows
    ]


def _respelled(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a manifest with the strengths of its run as they are written now: older versions
    wrote 0.2 of l2 as '51/255', and one value spelled in two ways would be two."""
    config = row["config"]
    if config["norm"] == "linf":
        return row
    strength = str(Strength.parse(config["epsilon_g"], config["norm"]))
    validation = {**config["validation"]}
    if validation.get("epsilon") is not None:
        validation["epsilon"] = str(Strength.parse(validation["epsilon"], config["norm"]))
    return {**row, "config": {**config, "epsilon_g": strength, "validation": validation}}


def _every_run(store: Store) -> list[Row]:
    """What the store's sweeps ask for, then the runs that belong to none of them."""
    found: dict[str, Row] = {}
    for path in sorted(store.root.glob("sweeps/*/manifest.jsonl")):
        for row in filter(None, salvage(path, shapes.Manifest)):
            known = found.setdefault(row["id"], row)
            known["evals"] = {**_configs(known["evals"]), **_configs(row["evals"])}
    for folder in sorted(store.runs.iterdir()) if store.runs.is_dir() else []:
        if folder.name not in found and RunDir(folder).config.is_file():
            try:
                found[folder.name] = _loose_run(RunDir(folder))
            except DamagedError as error:
                warn_once(f"{error}; this run is left out")
    return list(found.values())


def _loose_run(run: RunDir) -> Row:
    config = run.read_config()
    try:
        parsed = RunConfig.parse(config, where=str(run.config))
    except ConfigError as error:
        raise DamagedError(run.config, error.lines[0]) from None
    if parsed.id != run.id:
        raise DamagedError(run.config, f"the config of {parsed.id}")
    evals = sorted(path.stem for path in run.path.glob("evals/*.json"))
    return {"id": run.id, "setting": parsed.setting, "config": config, "evals": evals}


def _evaluations(store: Store, rows: Iterable[Mapping[str, Any]]) -> dict[str, Config]:
    """Id -> config of all evaluations that rows of a manifest ask for; {} if none of the rows tells
    it, nor a record of the evaluation."""
    found: dict[str, Config] = {}
    for row in rows:
        for name, config in _configs(row["evals"]).items():
            if not found.get(name):
                found[name] = config or _recorded(store.run(row["id"]), name)
    return found


def _configs(evals: Mapping[str, Config] | Sequence[str]) -> Mapping[str, Config]:
    """Id -> config; {} for each of the bare ids that older manifests have."""
    return evals if isinstance(evals, Mapping) else {name: {} for name in evals}


def _recorded(run: RunDir, eval_id: str) -> Config:
    """The config in a record, {} if there is none that can be read."""
    record: Row | None = None
    with suppress(DamagedError):
        record = read_json(run.eval_json(eval_id), shapes.Evaluation)
    return record["config"] if record else {}

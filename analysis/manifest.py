"""The runs that results are about: those of a grid's manifest, or every run of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from analysis.kinds import Config
from analysis.runs import Row, Run
from analysis.variants import variants_of
from core.config import ConfigError, RunConfig, Strength
from core.config.strength import in_pixels
from core.data.digests import Known
from core.errors import DamagedError
from core.store import shapes
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, salvage, warn_once


def runs_of(store: Store, manifest: Sequence[Mapping[str, Any]] | None) -> list[Run]:
    """The runs of a manifest, or every run of the store. Raises ConfigError if there are none."""
    rows = [_respelled(row) for row in (manifest if manifest is not None else _every_run(store))]
    if not rows:
        raise ConfigError(f"{store.root}: no runs here; `sweep launch` a grid first")
    variants = variants_of(rows)
    known = Known(store)
    # A run in no manifest is expected to have the evaluations of the first run that has any.
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
    """A row of a manifest with strengths in the present spelling: older versions wrote 0.2 in l2 as
    '51/255', and tables would take two spellings for two values."""
    config = row["config"]
    if in_pixels(config["norm"]):
        return row
    strength = str(Strength.parse(config["epsilon_g"], config["norm"]))
    validation = {**config["validation"]}
    if validation.get("epsilon") is not None:
        validation["epsilon"] = str(Strength.parse(validation["epsilon"], config["norm"]))
    return {**row, "config": {**config, "epsilon_g": strength, "validation": validation}}


def _every_run(store: Store) -> list[Row]:
    """Manifest rows of all runs in the store's sweeps, then of the runs that belong to none."""
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
                warn_once(f"{error}; the run is left out")
    return list(found.values())


def _loose_run(run: RunDir) -> Row:
    config = run.read_config()
    try:
        parsed = RunConfig.parse(config, where=str(run.config))
    except ConfigError as error:
        raise DamagedError(run.config, error.lines[0]) from None
    if parsed.id != run.id:
        raise DamagedError(run.config, f"expected the config of {run.id}, got that of {parsed.id}")
    evals = sorted(path.stem for path in run.path.glob("evals/*.json"))
    return {"id": run.id, "setting": parsed.setting, "config": config, "evals": evals}


def _evaluations(store: Store, rows: Iterable[Mapping[str, Any]]) -> dict[str, Config]:
    """Id -> config of all evaluations that rows of a manifest ask for; {} for one whose config is
    in none of the rows and in no record."""
    found: dict[str, Config] = {}
    for row in rows:
        for name, config in _configs(row["evals"]).items():
            if not found.get(name):
                found[name] = config or _recorded(store.run(row["id"]), name)
    return found


def _configs(evals: Mapping[str, Config] | Sequence[str]) -> Mapping[str, Config]:
    """Id -> config; {} as config for the bare ids in older manifests."""
    return evals if isinstance(evals, Mapping) else {name: {} for name in evals}


def _recorded(run: RunDir, eval_id: str) -> Config:
    """The config in an evaluation's record; {} if there is none or it cannot be read."""
    record: Row | None = None
    with suppress(DamagedError):
        record = read_json(run.eval_json(eval_id), shapes.Evaluation)
    return record["config"] if record else {}

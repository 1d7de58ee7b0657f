"""Run folders -> data frames: `load` gives the tidy one, `Results` also curves and epochs.

Nothing asked for is left out: what was not measured is a row whose value is NaN and whose state
and reason say why.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.names import ATTACKS, METRICS, dataset_name, model_name
from analysis.rounding import percent
from core.config import ConfigError, RunConfig, parse_strength, show_strength
from core.records import curve, delay, expected_accuracy
from core.rundir import RunDir, Store, read_json, read_jsonl

Row = dict[str, Any]

RUN_COLUMNS = ["model", "dataset", "epsilon_g", "setting", "seed", "variant", "run_id"]
VALUE_COLUMNS = [
    *("model", "dataset", "epsilon_g", "setting", "seed", "metric", "value", "n"),
    *("state", "reason", "variant", "hinges", "attack", "split", "split_images"),
    *("run_id", "eval_id", "commit", "source"),
]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run as found on disk, or the reason why it is not there."""

    id: str
    record: Mapping[str, Any] | None
    state: str = "done"
    reason: str = ""

    @property
    def attack(self) -> str:
        """'APGD-10'; '' where nothing was measured."""
        if self.record is None:
            return ""
        config = self.record["config"]
        return f"{ATTACKS.get(config['attack'], config['attack'])}-{config['steps']}"


@dataclass(frozen=True)
class Run:
    """One run of the grid and what its folder holds."""

    dir: RunDir
    config: Mapping[str, Any]
    setting: str
    variant: str
    state: str
    reason: str
    result: Mapping[str, Any] | None
    evaluations: tuple[Evaluation, ...]

    @property
    def epsilon_g(self) -> Fraction:
        return parse_strength(self.config["epsilon_g"])

    @property
    def hinges(self) -> str:
        """'T1=12;T2=37' of a two-hinge schedule (fix is T1=0;T2=0), '' of any other."""
        schedule = self.config["schedule"]
        if schedule["kind"] != "two_hinge":
            return ""
        return f"T1={schedule['T1']};T2={schedule['T2']}"

    @property
    def about(self) -> Row:
        """The columns that name a run in every frame."""
        return {
            "model": model_name(self.config["backbone"]),
            "dataset": dataset_name(self.config["dataset"]),
            "epsilon_g": float(self.epsilon_g * 255),
            "setting": self.setting,
            "seed": self.config["seed"],
            "variant": self.variant,
            "run_id": self.dir.id,
        }

    @cached_property
    def env(self) -> Mapping[str, Any]:
        """commit, versions, host, device; {} where the run never started."""
        return read_json(self.dir.env) or {}

    @cached_property
    def attempts(self) -> list[Row]:
        return read_jsonl(self.dir.attempts)

    @cached_property
    def epochs(self) -> list[Row]:
        """Rows of metrics.jsonl so far."""
        return read_jsonl(self.dir.metrics)

    @property
    def delay(self) -> int | None:
        """Adaptation delay in epochs (the length of the training where never); None before the
        run is done."""
        if self.result is not None:
            return int(self.result["delay"])
        total = int(self.config["epochs"])
        return delay(self.epochs, total) if len(self.epochs) == total else None


class Results:
    """Everything a list of runs left on disk. Read once; make a new one to see new files."""

    def __init__(self, root: str | Path, manifest: Sequence[Mapping[str, Any]] | None = None):
        """root: a store. manifest: the rows of a sweep's manifest.jsonl; None for every run of
        the store. Raises ConfigError where the store holds no run."""
        self.store = Store.at(root)
        rows = list(manifest if manifest is not None else _every_run(self.store))
        if not rows:
            raise ConfigError(f"{self.store.root}: no runs here; `sweep launch` a grid first")
        variants = _variants(rows)
        self._flags: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        # A run whose evaluations nothing tells is asked for those of the others.
        usual: list[str] = next((row["evals"] for row in rows if row["evals"]), [])
        self.runs = [
            _read(self.store, {**row, "evals": row["evals"] or usual}, variants[row["id"]])
            for row in rows
        ]

    @cached_property
    def values(self) -> pd.DataFrame:
        """One row per (run, evaluation, eps_g, metric); see `load`."""
        asked = _asked_strengths(self.runs)
        rows = [row for run in self.runs for row in _value_rows(run, asked)]
        frame = pd.DataFrame(rows, columns=VALUE_COLUMNS)
        return frame.astype({"n": "Int64", "split_images": "Int64", "value": float})

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Accuracy at every strength: RUN_COLUMNS + eval_id, attack, epsilon (255ths), correct,
        n, accuracy (percent)."""
        rows = [
            {
                **run.about,
                "eval_id": evaluation.id,
                "attack": evaluation.attack,
                "epsilon": float(parse_strength(point["epsilon"]) * 255),
                "correct": point["correct"],
                "n": point["n"],
                "accuracy": percent(point["correct"] / point["n"]),
            }
            for run in self.runs
            for evaluation in run.evaluations
            if evaluation.record is not None
            for point in evaluation.record["rows"]
        ]
        extra = ["eval_id", "attack", "epsilon", "correct", "n", "accuracy"]
        return pd.DataFrame(rows, columns=[*RUN_COLUMNS, *extra])

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """metrics.jsonl of every run, with val_clean and val_adv in percent."""
        rows = [{**run.about, **row} for run in self.runs for row in run.epochs]
        if not rows:
            return pd.DataFrame(columns=[*RUN_COLUMNS, "epoch", "val_clean", "val_adv"])
        frame = pd.DataFrame(rows)
        for kind in ("clean", "adv"):
            counts = frame[f"val_{kind}_correct"] / frame[f"val_{kind}_images"]
            frame[f"val_{kind}"] = 100 * counts
        return frame

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per run: RUN_COLUMNS + state, reason, epochs, delay, seconds, attempts,
        commit, host, device, finished."""
        return pd.DataFrame([_run_row(run) for run in self.runs])

    def critical(self, run_id: str, eval_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Per-image flags of an evaluation, sorted by image: (image index, index into its
        strengths of the first one that breaks the image), int arrays of shape [n].

        Raises OSError, ValueError or KeyError where the file is not there or not whole.
        """
        if (run_id, eval_id) not in self._flags:
            with np.load(self.store.run(run_id).eval_flags(eval_id)) as flags:
                order = np.argsort(flags["index"])
                self._flags[run_id, eval_id] = flags["index"][order], flags["critical"][order]
        return self._flags[run_id, eval_id]


def load(root: str | Path, runs: Sequence[Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """The results of a store as one tidy frame, one row per (run, evaluation, eps_g, metric).

    root: the store (`./outputs`). runs: rows of a manifest; None takes every run of the store.
    Columns: model, dataset (the paper's names), epsilon_g (255ths), setting, seed, metric (clean,
    adv, expected), value (percent, NaN where not measured), n (images), state (done, partial,
    failed, running, missing, ...), reason, variant (what else sets runs of one cell apart), hinges
    ('T1=12;T2=37'), attack, split, split_images, run_id, eval_id, commit, source (file). Standard
    fine-tuning has rows for every eps_g that the other runs ask for.
    Raises ConfigError where the store holds no run.
    """
    return Results(root, runs).values


def _every_run(store: Store) -> list[Row]:
    """What the store's sweeps ask for, then the runs that belong to none of them."""
    found: dict[str, Row] = {}
    for path in sorted(store.root.glob("sweeps/*/manifest.jsonl")):
        for row in read_jsonl(path):
            known = found.setdefault(row["id"], row)
            known["evals"] = list(dict.fromkeys([*known["evals"], *row["evals"]]))
    for folder in sorted(store.runs.iterdir()) if store.runs.is_dir() else []:
        if folder.name not in found and RunDir(folder).config.is_file():
            found[folder.name] = _loose_run(RunDir(folder))
    return list(found.values())


def _loose_run(run: RunDir) -> Row:
    config = yaml.load(run.config.read_bytes(), Loader=yaml.CSafeLoader)
    setting = RunConfig.parse(config, where=str(run.config)).setting
    evals = sorted(path.stem for path in run.path.glob("evals/*.json"))
    return {"id": run.id, "setting": setting, "config": config, "evals": evals}


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted names and values of a nested config."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _variants(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Run id -> what sets it apart from other runs of its cell ('optim.lr=0.001'), mostly ''.

    Only seeds may be averaged; runs of one cell that differ in anything else are other columns.
    """
    cells = defaultdict(list)
    for row in rows:
        config = row["config"]
        key = (config["backbone"], config["dataset"], config["epsilon_g"], row["setting"])
        cells[key].append(row)
    fields: dict[str, None] = {}
    for twins in cells.values():
        if len(twins) > 1:
            fields |= dict.fromkeys(_differing([row["config"] for row in twins]))
    found = {}
    for row in rows:
        config = dict(flat(row["config"])) if fields else {}
        found[row["id"]] = ", ".join(f"{name}={config.get(name)}" for name in fields)
    return found


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted names of the fields, other than the seed, in which the configs are not all equal."""
    plain = [{key: part for key, part in one.items() if key != "seed"} for one in configs]
    if all(one == plain[0] for one in plain):
        return []
    found = [dict(flat(one)) for one in plain]
    names = dict.fromkeys(name for one in found for name in one)
    return [name for name in names if any(one.get(name) != found[0].get(name) for one in found)]


def _read(store: Store, row: Mapping[str, Any], variant: str) -> Run:
    run = store.run(row["id"])
    result = read_json(run.result)
    state, reason = ("done", "") if result is not None else _why_unfinished(run)
    ids = list(dict.fromkeys([*row["evals"], *(result["evals"] if result else ())]))
    evaluations = tuple(_evaluation(run, eval_id, state, reason) for eval_id in ids)
    return Run(run, row["config"], row["setting"], variant, state, reason, result, evaluations)


def _why_unfinished(run: RunDir) -> tuple[str, str]:
    attempts = read_jsonl(run.attempts)
    if not attempts:
        return "missing", "not started"
    last = attempts[-1]
    outcome = last.get("outcome") or "running"
    if outcome == "done":
        return "missing", "ended, but result.json is not there"
    return outcome, last.get("reason") or f"attempt {last.get('attempt', len(attempts))}"


def _evaluation(run: RunDir, eval_id: str, state: str, reason: str) -> Evaluation:
    if state != "done":
        return Evaluation(eval_id, None, state, reason)
    try:
        record = read_json(run.eval_json(eval_id))
    except json.JSONDecodeError:
        return Evaluation(eval_id, None, "broken", f"evals/{eval_id}.json is not whole")
    if record is None:
        return Evaluation(eval_id, None, "missing", f"evaluation {eval_id} not done")
    n, whole = record["n"], record["split_images"]
    counts = {row["n"] for row in record["rows"]} | {n}
    if record["config"].get("images") is None and (counts != {whole}):
        return Evaluation(eval_id, record, "partial", f"{min(counts)} of {whole} images")
    return Evaluation(eval_id, record)


def _asked_strengths(runs: Sequence[Run]) -> dict[tuple[str, str], list[Fraction]]:
    """(backbone, dataset) -> the strengths at which a table may ask for the standard run."""
    asked = defaultdict(set)
    for run in runs:
        if run.epsilon_g:
            asked[run.config["backbone"], run.config["dataset"]].add(run.epsilon_g)
    everywhere = set().union(*asked.values())
    cells = {(run.config["backbone"], run.config["dataset"]) for run in runs}
    return {cell: sorted(asked.get(cell) or everywhere or {Fraction(0)}) for cell in cells}


def _value_rows(run: Run, asked: Mapping[tuple[str, str], list[Fraction]]) -> Iterable[Row]:
    cell = (run.config["backbone"], run.config["dataset"])
    for epsilon_g in [run.epsilon_g] if run.epsilon_g else asked[cell]:
        about = {**run.about, "epsilon_g": float(epsilon_g * 255), "hinges": run.hinges}
        for evaluation in run.evaluations or (Evaluation("", None, run.state, run.reason),):
            yield from _metric_rows(about, evaluation, epsilon_g)


def _metric_rows(about: Row, evaluation: Evaluation, epsilon_g: Fraction) -> Iterable[Row]:
    record = evaluation.record or {}
    about = {
        **about,
        "eval_id": evaluation.id,
        "attack": evaluation.attack,
        "n": record.get("n"),
        "split": record.get("config", {}).get("split", ""),
        "split_images": record.get("split_images"),
        "commit": record.get("commit", ""),
        "source": f"runs/{about['run_id']}/evals/{evaluation.id}.json",
    }
    accuracy = curve(record["rows"]) if record else {}
    for metric in METRICS if epsilon_g else ("clean",):
        state, reason, value = evaluation.state, evaluation.reason, float("nan")
        if record:
            try:
                value = percent(_measure(metric, accuracy, epsilon_g))
            except ValueError as error:
                state, reason = "missing", str(error)
        yield {**about, "metric": metric, "value": value, "state": state, "reason": reason}


def _measure(metric: str, accuracy: Mapping[Fraction, float], epsilon_g: Fraction) -> float:
    if metric == "expected":
        return expected_accuracy(accuracy, epsilon_g)
    at = Fraction(0) if metric == "clean" else epsilon_g
    if at not in accuracy:
        raise ValueError(f"no accuracy measured at {show_strength(at)}")
    return accuracy[at]


def _run_row(run: Run) -> Row:
    result, env = run.result or {}, run.env
    return {
        **run.about,
        "state": run.state,
        "reason": run.reason,
        "epochs": int(run.config["epochs"]),
        "delay": run.delay,
        "seconds": result.get("seconds"),
        "attempts": len(run.attempts),
        "commit": env.get("commit", ""),
        "host": env.get("host", ""),
        "device": env.get("device", ""),
        "finished": result.get("finished", ""),
    }

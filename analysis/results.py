"""Runs -> data frames: `load` returns the tidy one, `Results` has curves and epochs, too.

Nothing that a grid asks for is left out: what was not measured is a row with value NaN, whose state
and reason say why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import CURVES, EPOCHS, MARGINS, RUNS, VALUES, Frame
from analysis.index import Index, Rows
from analysis.manifest import runs_of
from analysis.margins.rows import margin_rows
from analysis.names import ACCURACY, CORRUPTED, METRICS
from analysis.rounding import percent
from analysis.runs import Evaluation, Row, Run
from core.config import Strength
from core.config.strength import NO_ATTACK, Norm, in_pixels
from core.errors import DamagedError
from core.store.flags import read_flags
from core.store.folders import Store
from core.store.records import expected_exactly, expected_up_to, overall_accuracy

ATTACKED = METRICS[1:]
"""Metrics that need a strength above 0."""


class Results:
    """Everything that runs have left on disk. Each frame is read once; make a new `Results` to see
    later changes."""

    def __init__(
        self,
        root: str | Path,
        manifest: Sequence[Mapping[str, Any]] | None = None,
        *,
        index: bool = True,
    ) -> None:
        """root: a store. manifest: the rows of a sweep's manifest.jsonl; None for every run of the
        store. index: cache what was read in <root>/index, so that the next time only changed run
        folders are read. Raises ConfigError if the store holds no run."""
        store = Store.at(root)
        self._take(store, runs_of(store, manifest), index)

    def _take(self, store: Store, runs: list[Run], index: bool) -> None:
        self.store, self.runs, self._indexed = store, runs, index
        self._asked = _asked_strengths(runs)
        asked = {run.dir.id: self.strengths_of(run) for run in runs}
        self._index = Index(store, runs, asked, enabled=index)
        self._flags: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def only(self, runs: list[Run]) -> Results:
        """The results of some of the runs."""
        part = object.__new__(Results)
        # Copies without anything read so far, as files may have changed since.
        part._take(self.store, [replace(run) for run in runs], self._indexed)
        return part

    @cached_property
    def values(self) -> pd.DataFrame:
        """One row per (run, evaluation, eps_g, metric); see `load`."""
        return self._index.read(VALUES, self._values_of)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Accuracy at every strength of every evaluation; epsilon in 255ths, accuracy in
        percent."""
        return self._index.read(CURVES, _curve_rows)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """metrics.jsonl of every run, with val_clean, val_adv and the threshold of adaptation in
        percent."""
        return self._index.read(EPOCHS, _epoch_rows)

    @cached_property
    def margins(self) -> pd.DataFrame:
        """Margin consistency of every evaluation with margins: a row per (run, evaluation, score,
        metric, strength); see `analysis.margins.rows.margin_rows`."""
        return self._index.read(MARGINS, margin_rows)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per run: its state, delay in epochs (= `epochs` if it never adapted), threshold
        (accuracy in percent above which it has adapted), seconds, attempts, host and device."""
        return self._index.read(RUNS, _runs_of)

    def read_once(
        self, frame: Frame, rows: Rows, advance: Callable[[], object] = lambda: None
    ) -> pd.DataFrame:
        """`frame`, made by `rows`; reads `values`, `table` and `margins` in the same pass over the
        run folders, and keeps nothing else in memory. advance: called after each run."""
        own: list[tuple[Frame, Rows]] = [(VALUES, self._values_of), (RUNS, _runs_of)]
        parts = [*own, (MARGINS, margin_rows), (frame, rows)]
        self.values, self.table, self.margins, found = self._index.read_once(parts, advance)
        return found

    def _values_of(self, run: Run) -> Iterator[Row]:
        return _value_rows(run, self.strengths_of(run))

    def strengths_of(self, run: Run) -> list[Strength]:
        """The eps_g at which tables show the run."""
        if run.epsilon_g:
            return [run.epsilon_g]
        return self._asked[run.config["backbone"], run.config["dataset"]]

    def critical(self, run_id: str, eval_id: str) -> tuple[np.ndarray, np.ndarray]:
        """(image index, index of the first strength of the evaluation that breaks the image), int
        arrays of shape [n], sorted by image index.

        Raises DamagedError, FileNotFoundError.
        """
        if (run_id, eval_id) not in self._flags:
            index, critical = self._images(run_id, eval_id, "critical")
            self._flags[run_id, eval_id] = index, critical
        return self._flags[run_id, eval_id]

    def corrupted(self, run_id: str, eval_id: str) -> tuple[np.ndarray, np.ndarray]:
        """(image index, share in [0, 1] of the tried corruptions under which the image is right),
        shape [n], sorted by image index. Raises as `critical`."""
        index, right = self._images(run_id, eval_id, "right")
        return index, (right == 1).sum(1) / (right >= 0).sum(1)

    def distances(self, run_id: str, eval_id: str) -> tuple[np.ndarray, np.ndarray]:
        """(image index, distance to the nearest adversarial image found, 0 for images that are
        wrong themselves), shape [n], sorted by image index. Raises as `critical`."""
        index, distance, correct = self._images(run_id, eval_id, "distance", "correct")
        return index, np.where(correct, distance, 0)

    def accuracy(self, run_id: str, eval_id: str) -> tuple[np.ndarray, np.ndarray]:
        """(image index, score in [0, 1]) from the array `accuracy` of a user's kind of evaluation,
        shape [n], sorted by image index. Raises as `critical`."""
        index, accuracy = self._images(run_id, eval_id, ACCURACY)
        return index, accuracy.astype(float)

    def _images(self, run_id: str, eval_id: str, *names: str) -> list[np.ndarray]:
        """The image indices, and the named per-image arrays, sorted by image index."""
        path = self.store.run(run_id).eval_flags(eval_id)
        flags = read_flags(path)
        if flags is None:
            raise FileNotFoundError(path)
        if lacking := {*names} - {*flags}:
            raise DamagedError(path, f"expected an array '{min(lacking)}'")
        order = np.argsort(flags["index"])
        return [flags[name][order] for name in ("index", *names)]


def load(
    root: str | Path,
    runs: Sequence[Mapping[str, Any]] | None = None,
    *,
    index: bool = True,
) -> pd.DataFrame:
    """The results of a store as one tidy frame, one row per (run, evaluation, eps_g, metric).

    root: the store (`./outputs`). runs: rows of a manifest; None takes every run of the store.
    index: see `Results`. Columns: model, dataset (the paper's names), epsilon_g (255ths, in any
    norm), norm (of eps_g), setting, seed, variant (other differences between runs of a cell),
    metric (clean, adv, expected; corrupted under common corruptions; whatever a user's kind
    declares), value (accuracies in percent, NaN if not measured), n (images), state (done, partial,
    failed, running, missing, ...), reason, hinges ('T1=12;T2=37'), T1, T2 (epochs), attack (its
    name in tables), kind (its name in grids), eval_norm ('' for kinds without one), about (what the
    numbers are), split, split_images, zero_gradient_images, run_id, eval_id, commit, source (file).
    Standard fine-tuning has rows for every eps_g that the other runs have.
    Raises ConfigError if the store holds no run.
    """
    return Results(root, runs, index=index).values


def _asked_strengths(runs: Sequence[Run]) -> dict[tuple[str, str], list[Strength]]:
    """(backbone, dataset) -> the eps_g at which tables show the standard run."""
    asked = defaultdict(set)
    for run in runs:
        if run.epsilon_g:
            asked[run.config["backbone"], run.config["dataset"]].add(run.epsilon_g)
    everywhere = set().union(*asked.values()) or _judged_at(runs)
    cells = {(run.config["backbone"], run.config["dataset"]) for run in runs}
    return {cell: sorted(asked.get(cell) or everywhere or {NO_ATTACK}) for cell in cells}


def _judged_at(runs: Sequence[Run]) -> set[Strength]:
    """If no run trains at all, the largest strength of their evaluations; {} otherwise, or if that
    differs in norm."""
    if any(run.config["schedule"]["kind"] != "none" for run in runs):
        return set()
    found = (config for run in runs for config in run.asked.values() if config.get("epsilons"))
    largest = {Strength.parse(one["epsilons"][-1], one.get("norm", "linf")) for one in found}
    return {max(largest)} if len({strength.norm for strength in largest}) == 1 else set()


def _value_rows(run: Run, strengths: Sequence[Strength]) -> Iterator[Row]:
    evaluations = run.evaluations or (Evaluation("", None, run.state, run.reason),)
    for trained in strengths:
        about = {**run.about, "epsilon_g": trained.in_255ths, "norm": trained.norm}
        about["hinges"] = run.hinges
        for evaluation in evaluations:
            yield from _metric_rows(
                {**about, "constant": run.is_constant(evaluation)}, evaluation, trained
            )


def _metric_rows(about: Row, evaluation: Evaluation, trained: Strength) -> Iterator[Row]:
    record, target = evaluation.record, evaluation.target(trained)
    made, note = record or {}, evaluation.note(trained)
    about = {
        **about,
        "eval_id": evaluation.id,
        "eval_norm": evaluation.norm,
        "attack": evaluation.attack + note,
        "note": note,
        "n": made.get("n"),
        "split": made.get("config", {}).get("split", ""),
        "split_images": made.get("split_images"),
        "zero_gradient_images": made.get("zero_gradient_images"),
        "kind": evaluation.config.get("attack", ""),
        "about": evaluation.kind.about(evaluation.config),
        "commit": made.get("commit") or "",
        "source": f"runs/{about['run_id']}/evals/{evaluation.id}.json",
    }
    at_strengths = any(metric in METRICS for metric in evaluation.kind.metrics)
    curve = _curve(record, target.norm) if record and at_strengths else {}
    for metric in evaluation.kind.metrics:
        if metric in ATTACKED and not target:
            continue
        state, reason, value = evaluation.state, evaluation.reason, float("nan")
        if record:
            try:
                value = _value(metric, record, curve, target, evaluation.prior)
            except ValueError as error:
                state, reason = "missing", str(error)
        yield {**about, "metric": metric, "value": value, "state": state, "reason": reason}


def _curve(record: Mapping[str, Any], norm: Norm) -> dict[Fraction, float]:
    """Accuracy in [0, 1] by strength: once for all metrics, since a Fraction's hash takes 4 us."""
    return {_number(row["epsilon"], norm): row["correct"] / row["n"] for row in record["rows"]}


def _value(
    metric: str,
    record: Mapping[str, Any],
    curve: Mapping[Fraction, float],
    target: Strength,
    prior: Sequence[float] | None,
) -> float:
    """A metric of a record: accuracies in percent, others as they are. Raises ValueError if the
    record does not have it."""
    rows = record["rows"]
    match metric:
        case "clean" | "adv" | "expected":
            if metric == "expected" and prior is None:
                exact = expected_exactly(rows, target)
                if exact is not None:
                    return percent(exact)
            return percent(_measure(metric, curve, target, prior))
        case _ if metric in (CORRUPTED, ACCURACY) and rows:
            return percent(overall_accuracy(rows))
        case _:
            stored = record.get("metrics", {}).get(metric)
            if stored is None:
                raise ValueError(f"its record has no {metric}")
            return float(stored)


@lru_cache
def _number(text: str, norm: Norm) -> Fraction:
    return Strength.parse(text, norm).number


def _measure(
    metric: str,
    accuracy: Mapping[Fraction, float],
    target: Strength,
    prior: Sequence[float] | None,
) -> float:
    at = Strength(Fraction(0), target.norm) if metric == "clean" else target
    if at.number not in accuracy and (metric != "expected" or not in_pixels(target.norm)):
        raise ValueError(f"no accuracy measured at {at}")
    if metric == "expected":
        return expected_up_to(accuracy, at, prior)
    return accuracy[at.number]


def _curve_rows(run: Run) -> Iterator[Row]:
    for evaluation in run.evaluations:
        if not evaluation.kind.at_strengths:
            continue
        record = evaluation.record or {}
        for point in record.get("rows", ()):
            yield {
                **run.about,
                "eval_id": evaluation.id,
                "eval_norm": point["norm"],
                "attack": evaluation.attack,
                "kind": evaluation.config["attack"],
                "split": record.get("config", {}).get("split", ""),
                "epsilon": float(_number(point["epsilon"], point["norm"]) * 255),
                "correct": point["correct"],
                "n": point["n"],
                "accuracy": percent(point["correct"] / point["n"]),
            }


def _epoch_rows(run: Run) -> Iterator[Row]:
    for row in run.epochs:
        clean = row["val_clean_correct"] / row["val_clean_images"]
        adv = row["val_adv_correct"] / row["val_adv_images"]
        measured = {"val_clean": 100 * clean, "val_adv": 100 * adv}
        yield {**row, **run.about, **measured, "threshold": 100 * run.threshold}


def _runs_of(run: Run) -> Iterator[Row]:
    result, env = run.result or {}, run.env
    yield {
        **run.about,
        "state": run.state,
        "reason": run.reason,
        "epochs": int(run.config["epochs"]),
        "delay": run.delay,
        "delay_of_paper": run.delay_of_paper,
        "classes": run.classes,
        "threshold": 100 * run.threshold,
        "seconds": result.get("seconds"),
        "attempts": len(run.attempts),
        "commit": env.get("commit") or "",
        "host": env.get("host") or "",
        "device": env.get("device") or "",
        "finished": result.get("finished") or "",
        "batchnorm_images": " ".join(map(str, run.batchnorm_images)),
    }

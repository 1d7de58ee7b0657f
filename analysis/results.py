"""Runs -> data frames: `load` returns the tidy one, `Results` has curves and epochs, too.

Nothing that a grid asks for is left out: what was not measured is a row with value NaN, whose state
and reason say why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import CURVES, EPOCHS, MARGINS, RUNS, VALUES, Frame
from analysis.index import Index, Rows
from analysis.manifest import runs_of
from analysis.margins.rows import margin_rows
from analysis.names import ACCURACY
from analysis.rows import asked_strengths, curve_rows, epoch_rows, run_rows, value_rows
from analysis.runs import Row, Run
from core.config import Strength
from core.errors import DamagedError
from core.store.flags import read_flags
from core.store.folders import Store


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
        self._asked = asked_strengths(runs)
        asked = {run.dir.id: self.strengths_of(run) for run in runs}
        self._index = Index(store, runs, asked, enabled=index)
        self._flags: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def only(self, runs: list[Run]) -> Results:
        """The results of some of the runs."""
        part = object.__new__(Results)
        # Copies that have read no file yet, as files may have changed since.
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
        return self._index.read(CURVES, curve_rows)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """metrics.jsonl of every run, with val_clean, val_adv and the threshold of adaptation in
        percent."""
        return self._index.read(EPOCHS, epoch_rows)

    @cached_property
    def margins(self) -> pd.DataFrame:
        """Margin consistency of every evaluation with margins: a row per (run, evaluation, score,
        metric, strength); see `analysis.margins.rows.margin_rows`."""
        return self._index.read(MARGINS, margin_rows)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per run: its state, delay in epochs (= `epochs` if it never adapted), threshold
        (accuracy in percent above which it has adapted), seconds, attempts, host and device."""
        return self._index.read(RUNS, run_rows)

    def read_once(
        self, frame: Frame, rows: Rows, advance: Callable[[], object] = lambda: None
    ) -> pd.DataFrame:
        """`frame`, made by `rows`; reads `values`, `table` and `margins` in the same pass over the
        run folders, and keeps nothing else in memory. advance: called after each run."""
        own: list[tuple[Frame, Rows]] = [(VALUES, self._values_of), (RUNS, run_rows)]
        parts = [*own, (MARGINS, margin_rows), (frame, rows)]
        self.values, self.table, self.margins, found = self._index.read_once(parts, advance)
        return found

    def _values_of(self, run: Run) -> Iterator[Row]:
        return value_rows(run, self.strengths_of(run))

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
    declares), value (accuracies in percent, NaN if not measured), trapezoid (what the trapezoid
    rule gives if the value is an exact integral), n (images), state (done, partial, failed,
    running, missing, ...), reason, hinges ('T1=12;T2=37'), T1, T2 (epochs), attack (its name in
    tables), kind (its name in grids), eval_norm ('' for kinds without one), about (what the
    numbers are), split, split_images, zero_gradient_images, run_id, eval_id, commit, source (file).
    Standard fine-tuning has rows for every eps_g that the other runs have.
    Raises ConfigError if the store holds no run.
    """
    return Results(root, runs, index=index).values

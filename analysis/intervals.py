"""Intervals and paired comparisons of cells, from the per-image flags of their evaluations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import Cell, Key, sources
from analysis.evaluation import Evaluation
from analysis.names import ACCURACY, CORRUPTED, METRICS
from analysis.results import Results
from analysis.runs import Run
from analysis.statistics import (
    RESAMPLES,
    Scores,
    bootstrap,
    mcnemar,
    percentiles,
    resampled,
    robustness,
    survival,
    wilson,
)
from analysis.tables import rivals, winners
from core.config import ConfigError, Strength
from core.config.strength import in_pixels

Records = Callable[[str, str], Evaluation]
Reader = Callable[[str, str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Interval:
    """95 % confidence interval, in percent, and its method."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """Second minus first in points on n shared images, with its 95 % confidence interval. mcnemar:
    p of McNemar's exact test, None unless each image is simply right or wrong (one seed)."""

    value: float
    low: float
    high: float
    n: int
    mcnemar: float | None

    @property
    def significant(self) -> bool:
        """Whether the 95 % interval excludes zero."""
        return self.low > 0 or self.high < 0


class Flags:
    """Per-image scores of cells, read from the run folders once."""

    def __init__(
        self, results: Results, frame: pd.DataFrame, records: Records | None = None
    ) -> None:
        """frame: the values that the cells were made from. records: (run id, evaluation id) -> the
        evaluation with its counts, by default read from the run folders."""
        self._results = results
        self._records = records or self._read
        self._frame = frame
        self._runs = {run.dir.id: run for run in results.runs}

    @cached_property
    def _rows(self) -> dict[Key, list[dict[str, Any]]]:
        return sources(self._frame)

    def scores(self, key: Key) -> tuple[np.ndarray, Scores]:
        """(image index, score in [0, 1] averaged over seeds), sorted by index, shape [n].

        Raises ConfigError if flags are missing or seeds were evaluated on different images.
        """
        per_seed = [
            self._one(row["run_id"], row["eval_id"], key)
            for row in self._rows[key]
            if row["state"] == "done"
        ]
        if not per_seed:
            raise ConfigError(f"{key.model}/{key.dataset}/{key.setting}: nothing measured")
        index = per_seed[0][0]
        if any(not np.array_equal(other, index) for other, _ in per_seed):
            raise ConfigError(
                f"{key.model}/{key.dataset}/{key.setting}: seeds have different images"
            )
        return index, np.mean([scores for _, scores in per_seed], axis=0)

    def _one(self, run_id: str, eval_id: str, key: Key) -> tuple[np.ndarray, Scores]:
        if key.metric == CORRUPTED:
            return self._load(self._results.corrupted, run_id, eval_id)
        if key.metric == ACCURACY:
            return self._load(self._results.accuracy, run_id, eval_id)
        if key.metric not in METRICS:
            raise ConfigError(f"{key.metric}: this metric has no scores per image")
        index, critical = self._load(self._results.critical, run_id, eval_id)
        if key.metric == "clean":
            return index, survival(critical, 0).astype(float)
        evaluation = self._records(run_id, eval_id)
        strengths = _strengths(self._runs[run_id], evaluation, key)
        if key.metric == "adv":
            return index, survival(critical, max(strengths)).astype(float)
        if evaluation.is_exact:
            _, distance = self._load(self._results.distances, run_id, eval_id)
            largest = max(strengths.values())
            return index, np.minimum(distance, largest) / largest
        prior = evaluation.prior and [evaluation.prior[level] for level in strengths]
        return index, robustness(critical, strengths, prior)

    def _read(self, run_id: str, eval_id: str) -> Evaluation:
        return next(one for one in self._runs[run_id].evaluations if one.id == eval_id)

    def _load(self, read: Reader, run_id: str, eval_id: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            return read(run_id, eval_id)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"runs/{run_id}/evals/{eval_id}.npz: {error}") from None

    def interval(self, key: Key) -> Interval:
        """Wilson's interval if each image is simply right or wrong (one seed), else the bootstrap
        over images. Raises ConfigError as `scores`."""
        done = [row for row in self._rows[key] if row["state"] == "done"]
        if len(done) == 1 and key.metric in METRICS:
            source = done[0]["run_id"], done[0]["eval_id"]
            if key.metric != "expected" or not self._records(*source).is_exact:
                return self._counted(*source, key)
        _, scores = self.scores(key)
        if np.isin(scores, (0, 1)).all():
            low, high = wilson(int(scores.sum()), len(scores))
            return Interval(100 * low, 100 * high, "Wilson")
        low, high = bootstrap(scores)
        return Interval(100 * low, 100 * high, "bootstrap over images")

    def _counted(self, run_id: str, eval_id: str, key: Key) -> Interval:
        """The interval for one seed, from its counts of right images at each strength: no flags are
        read."""
        evaluation = self._records(run_id, eval_id)
        record = evaluation.record or {}
        n, right = record["n"], [row["correct"] for row in record["rows"]]
        strengths = _strengths(self._runs[run_id], evaluation, key)
        if key.metric == "expected":
            broken = -np.diff([n, *right, 0])
            weights = evaluation.prior and [evaluation.prior[level] for level in strengths]
            scores = robustness(np.arange(len(broken)), strengths, weights)
            low, high = bootstrap(scores, broken)
            return Interval(100 * low, 100 * high, "bootstrap over images")
        low, high = wilson(right[0 if key.metric == "clean" else max(strengths)], n)
        return Interval(100 * low, 100 * high, "Wilson")

    def difference(self, first: Key, second: Key) -> Difference:
        """Second minus first, by the paired bootstrap. Raises ConfigError if their images
        differ."""
        index, a, b = self._means([(first, second)])
        low, high = (100 * bound for bound in bootstrap(b - a))
        binary = np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
        p = mcnemar(a == 1, b == 1) if binary else None
        return Difference(100 * float((b - a).mean()), low, high, len(index), p)

    def over_images(self, pairs: Sequence[tuple[Key, Key]]) -> tuple[float, float]:
        """95 % interval in points of second minus first as a mean over pairs of cells, by the
        paired bootstrap over the images of each dataset. Raises as `difference`."""
        by_dataset: dict[str, list[tuple[Key, Key]]] = defaultdict(list)
        for pair in pairs:
            by_dataset[pair[0].dataset].append(pair)
        means = np.zeros(RESAMPLES)
        for sample, mine in enumerate(by_dataset.values()):
            _, a, b = self._means(mine)
            means += len(mine) / len(pairs) * resampled(b - a, sample=sample)
        low, high = percentiles(100 * means)
        return low, high

    def _means(self, pairs: Sequence[tuple[Key, Key]]) -> tuple[np.ndarray, Scores, Scores]:
        """(image index, scores of the first cells, of the second), means over pairs of cells."""
        scored = [self.scores(key) for pair in pairs for key in pair]
        index = scored[0][0]
        if any(not np.array_equal(other, index) for other, _ in scored):
            first = pairs[0][0]
            raise ConfigError(f"{first.model}/{first.dataset}: settings have different images")
        each = np.array([scores for _, scores in scored])
        return index, each[::2].mean(0), each[1::2].mean(0)

    def significant(self, found: Mapping[Key, Cell]) -> set[Key]:
        """The winners whose lead over every rival is significant."""
        best = winners(found)
        return {
            key
            for group in rivals(found)
            for key in group
            if key in best and all(self._leads(key, rival) for rival in group if rival != key)
        }

    def _leads(self, key: Key, rival: Key) -> bool:
        difference = self.difference(rival, key)
        return difference.significant and difference.value > 0


def _strengths(run: Run, evaluation: Evaluation, key: Key) -> dict[int, float]:
    """Index -> number, of the evaluation's strengths that `key` is computed from: those up to eps_g
    and, for expected accuracy in l-inf by the trapezoid rule, only multiples of 1/255."""
    config = evaluation.record["config"] if evaluation.record else {}
    trained = run.epsilon_g or key.strength  # standard runs are shown at other runs' eps_g
    target = evaluation.target(trained)
    strengths = enumerate(Strength.parse(text, target.norm).number for text in config["epsilons"])
    coarse = key.metric == "expected" and in_pixels(target.norm) and not evaluation.prior
    coarse &= not evaluation.is_exact
    return {
        level: float(epsilon)
        for level, epsilon in strengths
        if epsilon <= target.number and not (coarse and (255 * epsilon).denominator > 1)
    }

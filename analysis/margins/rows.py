"""Distances and margins of one evaluation -> rows of the frame of margins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.evaluation import Evaluation
from analysis.margins.detection import Images, detect, estimates, is_rare
from analysis.margins.kendall import rank_correlation
from analysis.rounding import percent
from analysis.runs import Row, Run
from core.config import Strength
from core.config.strength import in_pixels
from core.errors import DamagedError
from core.store.flags import read_flags

SCORES = {
    "logit": "logit_margin",
    "feature": "feature_margin",
    "pseudo, features": "pseudo_features",
    "pseudo, logits": "pseudo_logits",
}
"""Name of a margin in tables -> its per-image array in an evaluation."""
PAPER = ("2/255", "4/255", "8/255", "12/255", "16/255", "32/255")
"""Strengths for detection in l-inf, as in the paper; in other norms, those of the evaluation."""
LEAST = 50
"""Minimum number of images for a meaningful rank correlation."""
METRICS = ("auroc", "aupr", "fpr95")

Arrays = Mapping[str, NDArray[Any]]


def has_margins(config: Mapping[str, Any]) -> bool:
    """Whether an evaluation measures margins besides distances."""
    return config.get("margins") is True


def margin_rows(run: Run) -> Iterator[Row]:
    """The rows of every evaluation with margins: tau for each margin, the median distance, and at
    each strength the accuracy, the share of brittle images, detection, and the errors of estimates.
    If the evaluation is missing, one row whose state and reason say why."""
    for evaluation in run.evaluations:
        if has_margins(evaluation.config):
            about = {
                **run.about,
                "eval_id": evaluation.id,
                "eval_norm": evaluation.config.get("norm", "linf"),
                "attack": evaluation.attack,
                "split": evaluation.config.get("split", ""),
                "n": evaluation.record["n"] if evaluation.record else None,
                "state": evaluation.state,
                "reason": evaluation.reason,
            }
            yield from ({**EMPTY, **about, **row} for row in _found(run, evaluation))


EMPTY: Row = {
    **dict.fromkeys(("value", "low", "high"), float("nan")),
    **dict.fromkeys(("score", "strength"), ""),
    "metric": "tau",
    "failed": None,
}


def _found(run: Run, evaluation: Evaluation) -> Iterator[Row]:
    if evaluation.record is None:
        yield {}
        return
    try:
        arrays = read_arrays(run, evaluation.id)
    except (OSError, DamagedError) as error:
        yield {"state": "damaged", "reason": str(error)}
        return
    if (n := len(arrays["distance"])) < LEAST:
        yield {"state": "missing", "reason": f"margins of {n} images, expected at least {LEAST}"}
        return
    yield from _statistics(arrays, strengths_of(evaluation.config))


def read_arrays(run: Run, eval_id: str) -> dict[str, NDArray[Any]]:
    """The arrays of an evaluation with margins, each of shape [n images]. Raises DamagedError if
    one is missing or contains NaN, FileNotFoundError if there is no file."""
    path = run.dir.eval_flags(eval_id)
    arrays = read_flags(path)
    if arrays is None:
        raise FileNotFoundError(path)
    for name in ("distance", "correct", "logit_margin"):
        if name not in arrays:
            raise DamagedError(path, f"expected an array '{name}'")
    for name in {"distance", *SCORES.values()} & {*arrays}:
        if np.isnan(arrays[name]).any():
            raise DamagedError(path, f"{name}: contains NaN")
    return arrays


def strengths_of(config: Mapping[str, Any]) -> list[Strength]:
    """The strengths at which brittle images are detected."""
    norm = config.get("norm", "linf")
    given: Sequence[str] = PAPER if in_pixels(norm) else config["epsilons"]
    return [strength for text in given if (strength := Strength.parse(text, norm))]


def _statistics(arrays: Arrays, strengths: Sequence[Strength]) -> Iterator[Row]:
    distance, right = arrays["distance"].astype(float), arrays["correct"].astype(bool)
    failed = int(np.isinf(distance).sum())
    scores = {name: arrays[array] for name, array in SCORES.items() if array in arrays}
    common = {"failed": failed, "value": float(np.median(distance)), "metric": "median"}
    yield common
    for name, margin in scores.items():
        tau = rank_correlation(distance, margin.astype(float))
        found = {"score": name, "value": tau.value, "low": tau.low, "high": tau.high}
        yield {"failed": failed, "metric": "tau", **found}
    for strength in strengths:
        brittle = arrays["distance"] <= np.float32(float(strength))  # as in the evaluation's rows
        for row in _at(strength, brittle, right, scores):
            yield {"failed": failed, "strength": str(strength), **row}


def _at(
    strength: Strength, brittle: NDArray[np.bool_], right: NDArray[np.bool_], scores: Arrays
) -> Iterator[Row]:
    yield {"metric": "brittle", "value": percent(float(brittle.mean()))}
    yield {"metric": "accuracy", "value": percent(float((right & ~brittle).mean()))}
    if is_rare(brittle):
        return
    for name, margin in scores.items():
        images = Images(margin.astype(float), brittle, right)
        found = detect(images.margin, brittle)
        for metric in METRICS:
            yield {"score": name, "metric": metric, "value": getattr(found, metric)}
        made, truth = estimates(images), images.accuracy()
        for metric in ("fixed", "best"):
            errors = [percent(abs(one - truth)) for one in getattr(made, metric)]
            mean, worst = float(np.mean(errors)), max(errors)
            yield {"score": name, "metric": metric, "value": mean, "high": worst}

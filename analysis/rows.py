"""A run -> its rows in the frames: values of metrics, curves, epochs, and the run itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import Any

from analysis.evaluation import Evaluation
from analysis.names import ACCURACY, CORRUPTED, METRICS
from analysis.rounding import percent
from analysis.runs import Row, Run
from core.config import Strength
from core.config.strength import NO_ATTACK, Norm, in_pixels
from core.store.records import expected_exactly, expected_up_to, overall_accuracy

ATTACKED = METRICS[1:]
"""Metrics that need a strength above 0."""


def asked_strengths(runs: Sequence[Run]) -> dict[tuple[str, str], list[Strength]]:
    """(backbone, dataset) -> the eps_g at which tables show the standard run."""
    asked = defaultdict(set)
    for run in runs:
        if run.epsilon_g:
            asked[run.config["backbone"], run.config["dataset"]].add(run.epsilon_g)
    everywhere = set().union(*asked.values()) or _judged_at(runs)
    cells = {(run.config["backbone"], run.config["dataset"]) for run in runs}
    return {cell: sorted(asked.get(cell) or everywhere or {NO_ATTACK}) for cell in cells}


def _judged_at(runs: Sequence[Run]) -> set[Strength]:
    """For runs none of which trains: the largest strength of their evaluations. Empty if a run
    trains, or if their norms differ."""
    if any(run.config["schedule"]["kind"] != "none" for run in runs):
        return set()
    found = (config for run in runs for config in run.asked.values() if config.get("epsilons"))
    largest = {Strength.parse(one["epsilons"][-1], one.get("norm", "linf")) for one in found}
    return {max(largest)} if len({strength.norm for strength in largest}) == 1 else set()


def value_rows(run: Run, strengths: Sequence[Strength]) -> Iterator[Row]:
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
        trapezoid = float("nan")
        if record:
            try:
                value = _value(metric, record, curve, target, evaluation.prior)
            except ValueError as error:
                state, reason = "missing", str(error)
            if metric == "expected" and evaluation.is_exact:
                with suppress(ValueError):  # too few strengths
                    trapezoid = percent(_measure(metric, curve, target, None))
        found = {"value": value, "trapezoid": trapezoid, "state": state, "reason": reason}
        yield {**about, "metric": metric, **found}


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


def curve_rows(run: Run) -> Iterator[Row]:
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


def epoch_rows(run: Run) -> Iterator[Row]:
    for row in run.epochs:
        clean = row["val_clean_correct"] / row["val_clean_images"]
        adv = row["val_adv_correct"] / row["val_adv_images"]
        measured = {"val_clean": 100 * clean, "val_adv": 100 * adv}
        yield {**row, **run.about, **measured, "threshold": 100 * run.threshold}


def run_rows(run: Run) -> Iterator[Row]:
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

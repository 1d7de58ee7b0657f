"""Signatures of failure (core.store.signatures) in runs that analysis has read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.runs import Run
from core.config import RunConfig
from core.store.signatures import (
    Finding,
    of_course,
    of_end,
    of_evaluation,
    of_training,
    standard_of,
    standards,
)


def diagnose(run: Run, standard: Run | None = None) -> list[Finding]:
    """Every signature that the run shows in its training, its end and its evaluations.

    standard: the standard run of the same cell and seed, None if there is none.
    """
    other = standard.epochs if standard else None
    found = of_training(run.epochs, int(run.config["epochs"]), other, run.classes)
    return [*found, *_of_outcome(run)]


def diagnose_alone(run: Run) -> list[Finding]:
    """The signatures that need no standard run: all but `of_transfer`."""
    found = of_course(run.epochs, int(run.config["epochs"]), run.classes)
    return [*found, *_of_outcome(run)]


def _of_outcome(run: Run) -> list[Finding]:
    found = []
    if run.result is None and run.attempts:
        last = run.attempts[-1]
        found += of_end(last.get("kind"), last.get("reason"))
    for evaluation in run.evaluations:
        if evaluation.record is not None:
            found += of_evaluation(evaluation.record, run.epsilon_g, run.classes)
    return found


def standard_runs(runs: Sequence[Run]) -> Mapping[str, Run]:
    """Run id -> the standard run of the same cell and seed, for attacked runs that have one."""
    spelled = {run.dir.id: _but_seed(run.config) for run in runs}
    # Parse one config for all runs that differ only in the seed: parsing 10,000 takes 2 s.
    first = {text: run.config for run in runs for text in (spelled[run.dir.id],)}
    configs = {text: RunConfig.parse({**config, "seed": 0}) for text, config in first.items()}
    names = {config.id: text for text, config in configs.items()}
    known = standards(configs.values())
    twins = {
        text: names.get(standard_of(config, known).id)
        for text, config in configs.items()
        if config.epsilon_g
    }
    places = {(spelled[run.dir.id], run.config["seed"]): run for run in runs}
    found = {
        run.dir.id: places.get((twin, run.config["seed"]))
        for run in runs
        if (twin := twins.get(spelled[run.dir.id]))
    }
    return {name: run for name, run in found.items() if run is not None}


def _but_seed(config: Mapping[str, Any]) -> str:
    return json.dumps({**config, "seed": 0})

"""`sweep status --diagnose`: signatures of failure (core.store.signatures) in run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.text import Text

from core.config import RunConfig
from core.errors import DamagedError
from core.store import shapes
from core.store.classes import classes_of
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from core.store.signatures import (
    Finding,
    of_end,
    of_evaluation,
    of_training,
    standard_of,
    standards,
)
from sweep.state.plan import Plan, Status


def diagnose(seen: Plan, store: Store) -> dict[str, list[Finding]]:
    """Run id -> its signatures of failure, for runs that show any. The standard runs that
    adversarial ones are compared with may come from other grids of the store."""
    known = standards(status.run.config for status in seen.statuses)
    found = {s.run.id: _of_run(s, store, known) for s in seen.statuses}
    return {run_id: findings for run_id, findings in found.items() if findings}


def _of_run(status: Status, store: Store, known: Mapping[RunConfig, RunConfig]) -> list[Finding]:
    config = status.run.config
    standard = _epochs(standard_of(config, known), store) if config.epsilon_g else None
    rows, run = _epochs(config, store), store.run(config.id)
    classes = classes_of(run, config.dataset, rows)
    found = of_training(rows, config.epochs, standard, classes)
    found += of_end(status.kind, status.reason)
    for asked in status.run.evals:
        with suppress(DamagedError):
            record = read_json(run.eval_json(asked.id), shapes.Evaluation)
            if record:
                found += of_evaluation(record, config.epsilon_g, classes)
    return found


def _epochs(config: RunConfig, store: Store) -> Sequence[Mapping[str, Any]]:
    try:
        return read_jsonl(store.run(config.id).metrics, shapes.MetricsRow)
    except DamagedError:
        return []


def as_dict(found: Mapping[str, Sequence[Finding]]) -> dict[str, list[dict[str, str]]]:
    """The shape of `--json`."""
    return {run_id: [one._asdict() for one in findings] for run_id, findings in found.items()}


def lines(found: Mapping[str, Sequence[Finding]]) -> list[Text]:
    """A line per run and signature, for a terminal."""
    if not found:
        return [Text("no signature of failure in any run")]
    return [
        Text.assemble((finding.name, "yellow"), f" {run_id}: {finding.text}")
        for run_id, findings in found.items()
        for finding in findings
    ]

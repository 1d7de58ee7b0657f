"""What the report shows of a single run: configuration, curves, diagnosis, log, origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.report.facts import code, diagnosis
from analysis.runs import Run
from analysis.variants import flat
from core.config import Strength
from core.store.files import read_end

KEPT = {"done": 400}
"""Characters of the log's end that the page keeps, by state."""
KEPT_OTHERWISE = 2000


def configs(runs: Sequence[Run]) -> tuple[str, dict[str, str]]:
    """(the fields all runs share, run id -> the others), one 'name: value' a line."""
    flats = {run.dir.id: dict(flat(run.config)) for run in runs}
    first = next(iter(flats.values()))
    shared = {
        name: value
        for name, value in first.items()
        if all(name in one and one[name] == value for one in flats.values())
    }
    differing = {
        run_id: {name: value for name, value in one.items() if name not in shared}
        for run_id, one in flats.items()
    }
    return _lines(shared), {run_id: _lines(one) for run_id, one in differing.items()}


def _lines(fields: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in fields.items())


def describe_run(
    run: Run, config: str, wandb: str | None, standard: Run | None = None
) -> dict[str, Any]:
    """Plain data for the page's script; accuracies in percent. standard: the standard run of the
    same cell."""
    epochs = run.epochs
    return {
        "diagnosis": diagnosis(run, standard),
        "clean": _percents(epochs, "clean"),
        "adv": _percents(epochs, "adv"),
        "val_epsilon": epochs[0]["val_epsilon"] if epochs else "",
        "curves": [
            _curve(evaluation.attack, record)
            for evaluation, record in _measured(run)
            if evaluation.kind.at_strengths
        ],
        "facts": list(_facts(run, wandb)),
        "config": config,
        "log": _log_end(run),
    }


def _percents(epochs: Sequence[Mapping[str, Any]], kind: str) -> list[float]:
    return [
        round(100 * row[f"val_{kind}_correct"] / row[f"val_{kind}_images"], 1) for row in epochs
    ]


def _measured(run: Run) -> list[tuple[Any, Mapping[str, Any]]]:
    return [(one, one.record) for one in run.evaluations if one.record is not None]


def _curve(attack: str, record: Mapping[str, Any]) -> list[Any]:
    norm = record["rows"][0]["norm"]
    unit, name = (255, "1/255") if norm == "linf" else (1, norm)
    points = [
        [
            float(Strength.parse(row["epsilon"], row["norm"]).number * unit),
            round(100 * row["correct"] / row["n"], 2),
        ]
        for row in record["rows"]
    ]
    return [attack, record["n"], points, name]


def _facts(run: Run, wandb: str | None) -> list[tuple[str, str]]:
    env, attempts = run.env, run.attempts
    said = [
        ("Run", run.dir.id),
        ("Folder", f"runs/{run.dir.id}"),
        ("State", f"{run.state} ({run.reason})" if run.reason else run.state),
        ("Attempts", ", ".join(_attempt(row) for row in attempts)),
        ("Machine", " ".join(str(env.get(name) or "") for name in ("host", "device")).strip()),
        ("Code", code(env) if env else ""),
        ("W&B", f"{wandb}/runs/{run.dir.id}" if wandb else _offline(run)),
    ]
    said += [
        (
            f"Evaluation {evaluation.attack}",
            f"evals/{evaluation.id}.json: {record['n']} of {record['split_images']} images of "
            f"the {record['config']['split']} split, {record['seconds']:.0f} s, "
            f"{record['zero_gradient_images']} images without a usable gradient",
        )
        for evaluation, record in _measured(run)
    ]
    return [(name, text) for name, text in said if text]


def _attempt(row: Mapping[str, Any]) -> str:
    reason = f" ({row['reason']})" if row.get("reason") else ""
    outcome = row.get("outcome") or "running"
    return f"{row.get('attempt', '?')} on {row.get('host', '?')}: {outcome}{reason}"


def _offline(run: Run) -> str:
    """How to get an offline run to W&B; '' where it was not tracked."""
    return (
        f"offline: wandb sync {run.dir.tracking}/offline-run-*" if run.dir.tracking.is_dir() else ""
    )


def _log_end(run: Run) -> str:
    keep = KEPT.get(run.state, KEPT_OTHERWISE)
    end = read_end(run.dir.log, keep + 1)
    text = end[-keep:].decode("utf-8", errors="replace").rstrip()
    # What was cut off in the middle of a line is not shown.
    return text.partition("\n")[2] if len(end) > keep else text

"""What the report needs of each run folder: what the page shows of the run, and what is summed up.

Both are JSON texts in a frame, which the index keeps: if a sweep grows by ten runs, only their ten
folders are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property, lru_cache
from typing import Any

from analysis.attacks import overrating
from analysis.cells import Cell, Key, group_cells
from analysis.choice import one_evaluation
from analysis.diagnosis import diagnose_alone, standard_runs
from analysis.evaluation import Evaluation
from analysis.frames import Frame
from analysis.gates import gates_of
from analysis.names import METRICS, paper_order
from analysis.results import Results
from analysis.runs import Row, Run
from core.config import Strength
from core.config.strength import Norm, in_pixels, scale_of
from core.errors import counted
from core.store.files import exists, read_end
from core.store.signatures import Transfer, of_transfer, transfer_of

DIGESTS = Frame("digests", {"run_id": "str", "shown": "str", "counted": "str"})
KEPT = {"done": 300}
"""State of a run -> number of characters that the page shows of the end of its log."""
KEPT_OTHERWISE = 2000


def digest_run(run: Run) -> Iterator[Row]:
    """The run's row in DIGESTS."""
    texts = {"shown": compact(_shown(run)), "counted": compact(_counted(run))}
    yield {"run_id": run.dir.id, **texts}


def compact(value: object) -> str:
    """JSON without white space."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _shown(run: Run) -> Row:
    """Plain data for the page's script; accuracies in percent."""
    epochs = run.epochs
    return {
        "clean": _percents(epochs, "clean"),
        "adv": _percents(epochs, "adv"),
        "val_epsilon": epochs[0]["val_epsilon"] if epochs else "",
        "curves": [
            _curve(evaluation.attack, record)
            for evaluation, record in _measured(run)
            if evaluation.kind.at_strengths
        ],
        "facts": list(_facts(run)),
        "log": _log_end(run),
    }


def _counted(run: Run) -> Row:
    """Plain data for the diagnosis of the run and for sums over runs."""
    total = int(run.config["epochs"])
    ended = run.epochs and len(run.epochs) >= total
    return {
        "course": _course(run),
        "findings": [str(finding) for finding in diagnose_alone(run)],
        "transfer": transfer_of(run.epochs, total, run.classes),
        "final": _clean(run.epochs[-1]) / 100 if ended else None,
        "gates": [*gates_of(run), *overrating(run)],
        "records": {
            one.id: [record["n"], [row["correct"] for row in record["rows"]], _attack(record)]
            for one, record in _measured(run)
            if one.kind.at_strengths
        },
        "environment": environment(run.env) if run.env else {},
        "seconds": sum(map(seconds, run.attempts)),
        "device_seconds": sum(seconds(row) * _gpus(row) for row in run.attempts),
        "on_gpus": any(row.get("gpus") for row in run.attempts),
    }


def _attack(record: Mapping[str, Any]) -> str:
    """JSON of the attack, norm, strengths and prior of an evaluation; the same text for most
    runs."""
    kept = ("attack", "norm", "epsilons", "prior")
    return compact({name: record["config"][name] for name in kept if name in record["config"]})


def _percents(epochs: Sequence[Mapping[str, Any]], kind: str) -> list[float]:
    right, images = f"val_{kind}_correct", f"val_{kind}_images"
    return [round(100 * row[right] / row[images], 1) for row in epochs]


def _clean(row: Mapping[str, Any]) -> float:
    """Clean validation accuracy of an epoch in percent."""
    return float(100 * row["val_clean_correct"] / row["val_clean_images"])


def _measured(run: Run) -> list[tuple[Any, Mapping[str, Any]]]:
    return [(one, one.record) for one in run.evaluations if one.record is not None]


def _curve(attack: str, record: Mapping[str, Any]) -> list[Any]:
    norm = record["rows"][0]["norm"]
    points = [
        [_place(row["epsilon"], row["norm"]), round(100 * row["correct"] / row["n"], 2)]
        for row in record["rows"]
    ]
    return [attack, record["n"], points, "1/255" if in_pixels(norm) else norm]


@lru_cache
def _place(epsilon: str, norm: Norm) -> float:
    """Where a strength lies on the axis: in 255ths for l-inf."""
    return round(float(Strength.parse(epsilon, norm).number * scale_of(norm)), 6)


def _facts(run: Run) -> list[tuple[str, str]]:
    env = run.env
    said = [
        ("Folder", f"runs/{run.dir.id}"),
        ("Attempts", ", ".join(_attempt(row) for row in run.attempts)),
        ("Machine", " ".join(str(env.get(name) or "") for name in ("host", "device")).strip()),
        ("Code", code(env) if env else ""),
    ]
    if exists(run.dir.tracking):
        said.append(("W&B", f"offline: wandb sync {run.dir.tracking}/offline-run-*"))
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


def _log_end(run: Run) -> str:
    keep = KEPT.get(run.state, KEPT_OTHERWISE)
    end = read_end(run.dir.log, keep + 1)
    text = end[-keep:].decode("utf-8", errors="replace").rstrip()
    # Without the first line, which is cut off.
    return text.partition("\n")[2] if len(end) > keep else text


def _course(run: Run) -> str:
    """How the training went: '50 of 50 epochs, validation accuracy 41.3 % at the end, adapted at
    epoch 8', or why there was none."""
    rows, total = run.epochs, int(run.config["epochs"])
    if not rows:
        return run.reason or ("no epoch yet" if total else "evaluated without training")
    clean, best = _clean(rows[-1]), max(map(_clean, rows))
    parts = [
        f"{len(rows)} of {counted(total, 'epoch')}",
        f"validation accuracy {clean:.1f} % at the end",
    ]
    if best > clean + 5:
        parts.append(f"{best:.1f} % at its best")
    if run.delay is not None:
        parts.append("never adapted" if run.delay >= total else f"adapted at epoch {run.delay}")
    return "; ".join([", ".join(parts), *([run.reason] if run.reason else [])])


def environment(env: Mapping[str, Any]) -> dict[str, str]:
    """The environment of a run: code, host, device and versions; without unknown ones."""
    flat = {
        "code": code(env),
        "host": str(env.get("host", "")),
        "device": str(env.get("device") or "CPU"),
        "python": str(env.get("python", "")),
    }
    versions: Mapping[str, str] = env.get("versions", {})
    return {name: text for name, text in (flat | dict(versions)).items() if text}


def code(env: Mapping[str, Any]) -> str:
    """The commit in an environment, and whether there were local changes."""
    dirty = env.get("dirty")
    said = ", local changes unknown" if dirty == "unknown" else " with local changes"
    return str(env.get("commit") or "unknown")[:12] + (said if dirty else "")


def _gpus(attempt: Mapping[str, Any]) -> float:
    """GPUs of an attempt, a fraction if runs shared one; 1 for a CPU."""
    return float(attempt.get("gpus") or 1)


def seconds(attempt: Mapping[str, Any]) -> float:
    """How long an attempt took; 0 if it is still running."""
    if not attempt.get("started") or not attempt.get("ended"):
        return 0.0
    started, ended = (datetime.fromisoformat(attempt[name]) for name in ("started", "ended"))
    return (ended - started).total_seconds()


@dataclass(frozen=True)
class Digests:
    """A sweep as the report has read it. runs: in the paper's order."""

    results: Results
    runs: Sequence[Run]
    shown: Mapping[str, str]
    """Run id -> JSON of what the page shows of it."""
    counted: Mapping[str, Row]
    states: Mapping[str, tuple[str, str]]
    """Run id -> (state, reason). From the run table, so that runs in the index are not read
    again."""

    @classmethod
    def of(cls, results: Results, advance: Callable[[], object] = lambda: None) -> Digests:
        """Read every run folder once. advance: called after each run."""
        frame = results.read_once(DIGESTS, digest_run, advance)
        names = frame["run_id"].tolist()
        numbers = map(json.loads, frame["counted"])
        table = results.table
        states = zip(table["state"], table["reason"], strict=True)
        return cls(
            results,
            in_paper_order(results.runs),
            dict(zip(names, frame["shown"].tolist(), strict=True)),
            dict(zip(names, numbers, strict=True)),
            dict(zip(table["run_id"], states, strict=True)),
        )

    @cached_property
    def found(self) -> Mapping[Key, Cell]:
        """The cells under the evaluation that main tables show."""
        return group_cells(one_evaluation(self.results.values))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Those of METRICS that the evaluation in the main tables gives (one at eps_g alone has no
        expected accuracy); all of them while nothing is measured."""
        measured = {key.metric for key, cell in self.found.items() if cell.value is not None}
        return tuple(name for name in METRICS if name in measured) or METRICS

    @cached_property
    def standard(self) -> Mapping[str, Run]:
        """Run id -> the standard run of its cell and seed, for attacked runs that have one."""
        return standard_runs(self.runs)

    def run(self, run_id: str) -> Run:
        return next(run for run in self.runs if run.dir.id == run_id)

    def evaluation(self, run_id: str, eval_id: str) -> Evaluation:
        """An evaluation of a run with its counts and strengths only."""
        n, counts, config = self.counted[run_id]["records"][eval_id]
        rows = [{"correct": count} for count in counts]
        return Evaluation(eval_id, {"n": n, "rows": rows, "config": _parsed(config)})

    def diagnosis(self, run: Run) -> str:
        """How the run's training went, and its signatures of failure, as one line."""
        own, standard = self.counted[run.dir.id], self.standard.get(run.dir.id)
        ended = self.counted[standard.dir.id]["final"] if standard else None
        transfer = Transfer(*own["transfer"]) if own["transfer"] else None
        found = [str(finding) for finding in of_transfer(transfer, ended)]
        return "; ".join([own["course"], *found, *own["findings"]])


@cache
def _parsed(config: str) -> Row:
    found: Row = json.loads(config)
    return found


def in_paper_order(runs: Sequence[Run]) -> list[Run]:
    """Runs sorted by model, dataset, strength, setting, variant and seed, in the paper's order."""
    fields = ("model", "dataset", "strength", "setting", "variant", "seed", "run_id")
    names = ({**run.about, "strength": run.epsilon_g} for run in runs)
    by_name = {
        tuple(name[field] for field in fields): run for name, run in zip(names, runs, strict=True)
    }
    return [by_name[name] for name in paper_order(by_name, fields)]

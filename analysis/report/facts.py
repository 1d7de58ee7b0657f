"""What a report says about a sweep as a whole: findings, coverage, time, versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from analysis import batchnorm, tuned
from analysis.cells import group_cells
from analysis.check import claims
from analysis.derived import paired_tests
from analysis.diagnosis import diagnose
from analysis.findings import finding
from analysis.gates import cell_gates, row_gates, run_gates
from analysis.names import paper_order
from analysis.paper import compared, one_evaluation
from analysis.results import Results
from analysis.rounding import half_up
from analysis.runs import Run
from analysis.tables import bracketed
from core.config import Strength
from core.errors import counted

SURE = 0.05


def findings(results: Results) -> list[str]:
    """Headline sentences, each computed: what the runs show, counts, tests, open problems."""
    table = results.table
    done = int((table["state"] == "done").sum())
    found = compared(group_cells(one_evaluation(results.values)))
    sentences = [finding(results)]
    for tested in paired_tests(found):
        if tested.test and tested.metric != "clean":
            test = tested.test
            sure = "significant" if test.p < SURE else "not significant"
            sentences.append(
                f"Over {test.n} pairs at eps_g = {tested.strength}"
                f"{bracketed(tested.variant)}, sched changes {tested.metric} accuracy by "
                f"{half_up(test.difference, 1):+} points on average (paired t = {test.t:.2f}, "
                f"p = {test.p:.2g}: {sure} at 5 %)."
            )
    sentences += [f"{line[0].upper()}{line[1:]}." for line in claims(results.values)]
    for text in (tuned.sentence(results), batchnorm.sentence(results)):
        if text:
            sentences.append(f"{text[0].upper()}{text[1:]}.")
    broken = len(violations(results))
    sentences.append(
        f"{done} of {counted(len(table), 'run')} done; "
        + (f"{counted(broken, 'broken sanity gate')}." if broken else "no sanity gate is broken.")
    )
    return sentences


def violations(results: Results) -> list[str]:
    """Every broken sanity gate as a sentence."""
    chosen = one_evaluation(results.values)
    found = group_cells(chosen)
    gates = (*cell_gates(found), *row_gates(chosen, found))
    return [violation.text for violation in gates] + run_gates(results)


@dataclass(frozen=True)
class Hours:
    """Time in hours of one device, GPU-hours where runs had GPUs: planned by the grid, spent by all
    attempts that have ended, and what all runs would take at the mean of those done, evaluations
    and failed attempts included."""

    planned: float | None
    used: float
    done: int
    total: int
    projected: float | None
    devices: tuple[str, ...]
    unit: str


def hours(results: Results, about: Mapping[str, Any]) -> Hours:
    """about: the grid's own, whose gpu_hours is the plan."""
    attempts = [row for run in results.runs for row in run.attempts]
    done = [_spent(run.attempts) for run in results.runs if run.result and run.attempts]
    devices = Counter(str(run.env.get("device") or "CPU") for run in results.runs if run.env)
    planned = about.get("gpu_hours")
    total = len(results.runs)
    return Hours(
        planned=float(planned) if isinstance(planned, (int, float)) else None,
        used=_spent(attempts),
        done=len(done),
        total=total,
        projected=sum(done) / len(done) * total if done else None,
        devices=tuple(name for name, _ in devices.most_common()),
        unit="GPU-hours" if any(row.get("gpus") for row in attempts) else "hours",
    )


def _spent(attempts: Iterable[Mapping[str, Any]]) -> float:
    """Hours of one device."""
    return sum(seconds(row) * _gpus(row) for row in attempts) / 3600


def _gpus(attempt: Mapping[str, Any]) -> float:
    """Of an attempt: a share where runs had one together; 1 for a CPU."""
    return float(attempt.get("gpus") or 1)


def seconds(attempt: Mapping[str, Any]) -> float:
    """How long an attempt took, 0 while it runs."""
    if not attempt.get("started") or not attempt.get("ended"):
        return 0.0
    started, ended = (datetime.fromisoformat(attempt[name]) for name in ("started", "ended"))
    return (ended - started).total_seconds()


def environments(results: Results) -> list[dict[str, Any]]:
    """The distinct environments that runs were made in, with their count of runs."""
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for run in results.runs:
        if run.env:
            counts[tuple(_environment(run.env).items())] += 1
    return [{"runs": count, **dict(items)} for items, count in counts.most_common()]


def code(env: Mapping[str, Any]) -> str:
    """The commit of an environment, and what is known of uncommitted changes."""
    dirty = env.get("dirty")
    said = ", local changes unknown" if dirty == "unknown" else " with local changes"
    return str(env.get("commit") or "unknown")[:12] + (said if dirty else "")


def _environment(env: Mapping[str, Any]) -> dict[str, str]:
    flat = {
        "code": code(env),
        "host": str(env.get("host", "")),
        "device": str(env.get("device") or "CPU"),
        "python": str(env.get("python", "")),
    }
    versions: Mapping[str, str] = env.get("versions", {})
    return {name: text for name, text in (flat | dict(versions)).items() if text}


def in_paper_order(runs: Sequence[Run]) -> list[Run]:
    """By model, dataset, strength, setting and seed, as the paper orders them."""
    fields = ("model", "dataset", "strength", "setting", "variant", "seed", "run_id")
    names = ({**run.about, "strength": run.epsilon_g} for run in runs)
    by_name = {
        tuple(name[field] for field in fields): run for name, run in zip(names, runs, strict=True)
    }
    return [by_name[name] for name in paper_order(by_name, fields)]


def coverage(results: Results) -> tuple[list[str], list[tuple[str, list[Counter[str]]]]]:
    """(column names, one line per model and dataset): how many runs of each cell are in which
    state, one column per setting and eps_g."""
    columns: dict[str, Strength] = {}
    lines: dict[str, dict[str, Counter[str]]] = {}
    for run in in_paper_order(results.runs):
        about = run.about
        at = f" {run.epsilon_g}" if run.epsilon_g else ""
        columns[run.setting + at] = run.epsilon_g
        line = lines.setdefault(f"{about['model']} {about['dataset']}", {})
        line.setdefault(run.setting + at, Counter())[run.state] += 1
    names = sorted(columns, key=columns.__getitem__)
    return names, [
        (line, [found.get(name, Counter()) for name in names]) for line, found in lines.items()
    ]


def diagnosis(run: Run, standard: Run | None = None) -> str:
    """How the run went, from its curves, and the signatures of failure that it shows: for a reader
    who looks at one run. standard: the standard run of its cell, where there is one."""
    rows, total = run.epochs, int(run.config["epochs"])
    if not rows:
        return run.reason or ("no epoch yet" if total else "judged as its file has it")
    last = rows[-1]
    clean = 100 * last["val_clean_correct"] / last["val_clean_images"]
    best = max(100 * row["val_clean_correct"] / row["val_clean_images"] for row in rows)
    parts = [
        f"{len(rows)} of {counted(total, 'epoch')}",
        f"validation accuracy {clean:.1f} % at the end",
    ]
    if best > clean + 5:
        parts.append(f"{best:.1f} % at its best")
    if run.delay is not None:
        never = run.delay >= total
        parts.append("never adapted" if never else f"adapted at epoch {run.delay}")
    found = [str(finding) for finding in diagnose(run, standard)]
    return "; ".join([", ".join(parts), *([run.reason] if run.reason else []), *found])

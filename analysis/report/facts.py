"""What a report shows of a sweep as a whole: findings, coverage, time, versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis import batchnorm, tuned
from analysis.check import claims
from analysis.choice import one_evaluation
from analysis.derived import paired_tests
from analysis.findings import finding, gaps
from analysis.gates import cell_gates, commit_gates, folded, row_gates
from analysis.margins import trends
from analysis.paper import compared
from analysis.report.digest import Digests
from analysis.report.verdict import Verdict
from analysis.rounding import half_up
from analysis.tables import ABSENT, bracketed
from core.config import Strength
from core.errors import counted

SURE = 0.05


def findings(digests: Digests, *, paper: bool = False) -> list[str]:
    """Headline sentences: what the runs show, counts, tests, open problems. paper: whether the grid
    feeds the paper's tables; if so and it has pairs of fix and sched, the paper's rules apply."""
    results, verdict = digests.results, Verdict(digests)
    both = paper and any(gap.clean for gap in gaps(results.values))
    sentences = _of_paper(digests, verdict) if both else verdict.sentences()
    sentences += [] if sentences else taus(digests)[:1]
    return [*(sentences or [_nothing(digests)]), *standing(digests)]


def taus(digests: Digests) -> list[str]:
    """What the runs show of margin consistency; [] if no margins were measured."""
    return [f"{line[0].upper()}{line[1:]}." for line in trends.sentences(digests.results.margins)]


def _nothing(digests: Digests) -> str:
    if all(state == "done" for state, _ in digests.states.values()):
        return "Nothing to compare: no two settings at one strength on one backbone and dataset."
    return "Nothing to compare yet: no two settings are complete, all else equal."


def _of_paper(digests: Digests, verdict: Verdict) -> list[str]:
    results = digests.results
    sentences = [finding(results), *verdict.sentences()[:1]]
    for tested in paired_tests(compared(digests.found)):
        if tested.test and tested.metric != "clean":
            test = tested.test
            sure = "significant" if test.p < SURE else "not significant"
            sentences.append(
                f"Over {test.n} pairs at eps_g = {tested.strength}"
                f"{bracketed(tested.variant)}, sched changes {tested.metric} accuracy by "
                f"{half_up(test.difference, 1):+} points on average (paired t = {test.t:.2f}, "
                f"p = {test.p:.2g}: {sure} at 5 %)."
            )
    return sentences + [f"{line[0].upper()}{line[1:]}." for line in claims(results.values)]


def standing(digests: Digests) -> list[str]:
    """How many runs are done, and warnings about how they were made."""
    results, sentences = digests.results, list[str]()
    done = int((results.table["state"] == "done").sum())
    for text in (tuned.sentence(results), batchnorm.sentence(results)):
        if text:
            sentences.append(f"{text[0].upper()}{text[1:]}.")
    broken = len(violations(digests))
    sentences.append(
        f"{done} of {counted(len(results.table), 'run')} done; "
        + (f"{counted(broken, 'violated sanity gate')}." if broken else "no sanity gate violated.")
    )
    return sentences


def violations(digests: Digests) -> list[str]:
    """Every violated sanity gate as a sentence."""
    chosen, found = one_evaluation(digests.results.values), digests.found
    gates = (*cell_gates(found), *row_gates(chosen, found))
    of_runs = [text for run in digests.runs for text in digests.counted[run.dir.id]["gates"]]
    texts = [violation.text for violation in gates] + folded(of_runs)
    return texts + commit_gates(digests.results.values)


@dataclass(frozen=True)
class Hours:
    """Device-hours in `unit`. planned: by the grid. used: by all attempts that have ended.
    projected: for all runs, at the mean of those done, including evaluations and failed attempts;
    None if none is done."""

    planned: float | None
    used: float
    done: int
    total: int
    projected: float | None
    devices: tuple[str, ...]
    unit: str


def hours(digests: Digests, about: Mapping[str, Any]) -> Hours:
    """The hours of a sweep. about: the grid's `about`, whose gpu_hours is the plan."""
    runs, counted = digests.runs, digests.counted
    spent = {name: one["device_seconds"] / 3600 for name, one in counted.items()}
    done = [
        spent[one] for one, (state, _) in digests.states.items() if state == "done" and spent[one]
    ]
    environments = [one["environment"] for one in counted.values() if one["environment"]]
    devices = Counter(one["device"] for one in environments)
    planned = about.get("gpu_hours")
    on_gpus = any(one["on_gpus"] for one in counted.values())
    return Hours(
        planned=float(planned) if isinstance(planned, (int, float)) else None,
        used=sum(spent.values()),
        done=len(done),
        total=len(runs),
        projected=sum(done) / len(done) * len(runs) if done else None,
        devices=tuple(name for name, _ in devices.most_common()),
        unit="GPU-hours" if on_gpus else "hours",
    )


def environments(digests: Digests) -> list[dict[str, Any]]:
    """The distinct environments of the runs, each with its number of runs, the most common
    first."""
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for one in digests.counted.values():
        if one["environment"]:
            counts[tuple(one["environment"].items())] += 1
    return [{"runs": count, **dict(items)} for items, count in counts.most_common()]


def coverage(digests: Digests) -> dict[str, Any]:
    """A table for the page's script: the number of runs in each state, with a row for each model
    and dataset and a column for each setting and eps_g."""
    columns: dict[str, Strength] = {}
    lines: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    for run in digests.runs:
        about = run.about
        at = f" {run.epsilon_g}" if run.epsilon_g else ""
        columns[run.setting + at] = run.epsilon_g
        line = lines.setdefault((about["model"], about["dataset"]), {})
        line.setdefault(run.setting + at, Counter())[digests.states[run.dir.id][0]] += 1
    names = sorted(columns, key=columns.__getitem__)
    return {
        "title": "Runs by state",
        "stub": ["Model", "Dataset"],
        "levels": [[(name, 1) for name in names]],
        "rows": [
            (pair, [_counts(found.get(name, Counter())) for name in names])
            for pair, found in lines.items()
        ],
        "notes": [f"{ABSENT} not asked for"],
    }


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counter.items()) or ABSENT

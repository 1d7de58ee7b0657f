"""Sanity gates: properties that every correct set of accuracies has. Violations are marked and
listed; a gate never changes or drops a number.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.cells import BY, Cell, Key
from analysis.results import Results
from analysis.rounding import half_up, percent
from analysis.runs import Run
from analysis.tables import DOUBLE_DAGGER, cell_name, some
from core.config import Strength
from core.errors import counted
from core.store.signatures import MASKED, is_masked

OVERRATED = 1.0
"""Points by which an attack may overrate a run without a warning."""
SHOWN = 3
"""Runs with the same violation that have a line each."""
ROUNDING = 0.005
"""Half of the last printed digit: the rounding error of published numbers."""


@dataclass(frozen=True)
class Violation:
    """A violated gate: the cells to mark and a sentence for the note."""

    keys: tuple[Key, ...]
    text: str


def cell_gates(found: Mapping[Key, Cell]) -> list[Violation]:
    """Violations of adv <= expected <= clean."""
    groups: dict[Key, dict[str, Key]] = defaultdict(dict)
    for key, cell in found.items():
        if cell.value is not None:
            groups[key._replace(metric="")][key.metric] = key
    return [violation for keys in groups.values() for violation in _order(keys, found)]


def _order(keys: Mapping[str, Key], found: Mapping[Key, Cell]) -> Iterator[Violation]:
    for low, high in (("adv", "clean"), ("adv", "expected"), ("expected", "clean")):
        if low in keys and high in keys:
            below, above = (found[keys[metric]].value or 0.0 for metric in (low, high))
            if below > above + ROUNDING:
                name = cell_name(keys[low])
                text = f"{name}: {low} ({below:.2f}) above {high} ({above:.2f})"
                yield Violation((keys[low], keys[high]), text)


def row_gates(frame: pd.DataFrame, found: Mapping[Key, Cell]) -> list[Violation]:
    """Datasets whose cells differ in the size of the split or in the number of images."""
    violations = []
    for dataset, rows in frame[frame["n"].notna()].groupby("dataset", sort=False):
        for column, name in (("split_images", "sizes of the split"), ("n", "numbers of images")):
            counts = sorted(set(rows[column].dropna()))
            if len(counts) > 1:
                keys = tuple(
                    key
                    for key, cell in found.items()
                    if key.dataset == dataset and set(cell.n) != {counts[-1]}
                )
                shown = ", ".join(map(str, counts))
                violations.append(Violation(keys, f"{dataset}: different {name}: {shown}"))
    return violations


def masking_gates(frame: pd.DataFrame, found: Mapping[Key, Cell]) -> list[Violation]:
    """Attacked accuracies that may be too high, as many right images have no usable gradient."""
    measured = frame[frame["n"].notna() & (frame["metric"] != "clean")]
    blind = measured[measured["zero_gradient_images"].fillna(0) > MASKED * measured["n"]]
    violations = []
    for (_, run_id), rows in blind.groupby(["eval_id", "run_id"], sort=False):
        of_run = {Key(*row) for row in rows[BY].itertuples(index=False, name=None)}
        keys = tuple(key for key in found if key in of_run)
        count, n = rows["zero_gradient_images"].iloc[0], rows["n"].iloc[0]
        if keys:
            text = (
                f"{cell_name(keys[0])}: gradient masking suspected, {count} of {n} images are "
                f"right and have no usable gradient (more than {MASKED:.0%}; run {run_id})"
            )
            violations.append(Violation(keys, text))
    return violations


def constant_gates(found: Mapping[Key, Cell]) -> list[Violation]:
    """Cells of runs that give every image the same label: their accuracy is the share of one class
    under every attack."""
    keys = tuple(key for key, cell in found.items() if cell.constant)
    if not keys:
        return []
    seeds = {cell_name(key): found[key] for key in keys}
    names = [
        name + (f" ({cell.constant} of {cell.measured} seeds)" if cell.measured > 1 else "")
        for name, cell in seeds.items()
    ]
    text = "one label for every image, no result and never bold"
    return [Violation(keys, f"{text}: {some(names)}")]


def run_gates(results: Results) -> list[str]:
    """A line for each violation: accuracy grows with the strength, gradients are missing, another
    attack breaks more, or evaluations are from different commits."""
    texts = [text for run in results.runs for text in gates_of(run)]
    return [*texts, *commit_gates(results.values)]


def commit_gates(values: pd.DataFrame) -> list[str]:
    """A line if the evaluations were made by different commits, else []."""
    commits = sorted(set(values["commit"]) - {""})
    several = f"evaluated by different versions of the code: {', '.join(commits)}"
    return [several] if len(commits) > 1 else []


def gates_of(run: Run) -> Iterator[str]:
    """The violations in a run's own evaluations, see `run_gates`."""
    for evaluation in run.evaluations:
        record = evaluation.record
        if record is None:
            continue
        if evaluation.kind.at_strengths:
            yield from _growing(run, record["rows"])
        if text := _doubted(record):
            yield f"{run.dir.id}: {text}"
        blind, n = record["zero_gradient_images"], record["n"]
        if is_masked(blind, n):
            text = f"{blind} of {n} images have no usable gradient; the attack may overrate the run"
            yield f"{run.dir.id}: {text}"


def folded(texts: Sequence[str]) -> list[str]:
    """The lines; of more than SHOWN runs whose texts differ only in numbers, the one with the
    largest numbers."""
    alike: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        _, _, said = text.partition(": ")
        alike[re.sub(r"[\d.,/]+", "", said)].append(text)
    return [
        line
        for same in alike.values()
        for line in (
            same
            if len(same) <= SHOWN
            else [f"{counted(len(same), 'run')}, such as {max(same, key=_numbers)}"]
        )
    ]


def _numbers(text: str) -> list[float]:
    """The numbers in what a line says of its run."""
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", text.partition(": ")[2])]


def _doubted(record: Mapping[str, Any]) -> str:
    """A phrase for the strength at which a second attack, on part of the surviving images, lowers
    the accuracy most; '' if by at most a point."""
    right = {row["epsilon"]: row["correct"] / row["n"] for row in record["rows"]}
    opinions: list[Mapping[str, Any]] = record.get("opinion") or []
    points = [percent(right[one["epsilon"]] * one["broken"] / one["images"]) for one in opinions]
    if not points or (most := max(points)) <= OVERRATED:
        return ""
    one = opinions[points.index(most)]
    return (
        f"{record['id']} overrates it by about {half_up(most, 1)} points at {one['epsilon']}: FMN "
        f"breaks {one['broken']} of the first {one['images']} survivors"
    )


def _growing(run: Run, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    points = [(Strength.parse(row["epsilon"], row["norm"]), row["correct"]) for row in rows]
    points.sort(key=lambda point: float(point[0]))  # in a fifth of the time of exact fractions
    for (_, before), (strength, correct) in pairwise(points):
        if correct > before:
            yield f"{run.dir.id}: accuracy grows at {strength}"


def marked(violations: Iterable[Violation]) -> set[Key]:
    """The cells to mark in a table."""
    return {key for violation in violations for key in violation.keys}


def notes(violations: Iterable[Violation], more: Iterable[str] = ()) -> list[str]:
    """One note per violation, as printed below a table."""
    texts = [*(violation.text for violation in violations), *more]
    return [f"{DOUBLE_DAGGER} {text}" for text in texts]

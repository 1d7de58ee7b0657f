"""`sweep suggest-schedule`: hinges T1 and T2 from finished standard and fix runs.

As in the paper: T1 is the epoch (from 0) at which standard fine-tuning reaches 90 % of its final
validation accuracy; T2 is the adaptation delay of fix, or all epochs if it never adapts. Here both
are means over seeds, one pair for each (backbone, dataset, eps_g). With fewer than 100 classes,
accuracy by chance is taken into account: see `core.store.records.threshold`.

This is only a rule of thumb: if the store has the runs, a suggestion is compared with the other
settings of its cell in expected accuracy, and withdrawn if one of them has more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from core.config import RunConfig
from core.config.evaluation import AtStrengths
from core.config.schedule import Schedule
from core.config.values import flat
from core.errors import DamagedError
from core.sheet import Sheet
from core.store import shapes
from core.store.classes import classes_of
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from core.store.records import EXACT, chance, curve, delay, expected_up_to, threshold
from core.store.signatures import VERY_FAR, clean, standard_of, standards, twin

REACHED = 0.9
"""Share of its final validation accuracy at which standard fine-tuning has adapted."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Suggestion:
    """The hinges for one cell. problem: why no schedule is suggested, '' if one is."""

    backbone: str
    dataset: str
    epsilon_g: str
    variant: str = ""
    """What differs from other cells with the same three fields, such as 'protocol=lora'."""
    T1: int | None = None
    T2: int | None = None
    seeds: int = 0
    problem: str = ""
    never: int = 0
    """Seeds whose fix run never adapted; for them T2 counts all epochs."""
    measured: str = "not measured"
    """How its expected accuracy compares with the cell's other settings."""

    @property
    def snippet(self) -> str:
        """The line for a grid file; '' if no schedule is suggested."""
        hinges = f"T1: {self.T1}, T2: {self.T2}"
        return "" if self.problem else f"schedule: {{kind: two_hinge, {hinges}}}"

    def to_dict(self) -> dict[str, Any]:
        """The shape of `--json`."""
        return {**vars(self), "snippet": self.snippet}


def suggest(
    configs: Sequence[RunConfig], store: Store, evals: Sequence[AtStrengths] = ()
) -> list[Suggestion]:
    """One suggestion for each cell of these runs, in their order. Standard and fix runs may come
    from other grids: any finished run in the store counts if only its schedule differs.

    evals: the evaluations to compare settings by; of each run, the first one in its norm that
    measures its eps_g.
    """
    cells: dict[RunConfig, list[RunConfig]] = {}
    settings: dict[RunConfig, dict[Schedule, None]] = defaultdict(dict)
    for config in configs:
        if config.epsilon_g:
            fix = twin(config, "fix")
            cell = fix.model_copy(update={"seed": 0})
            cells.setdefault(cell, []).append(fix)
            settings[cell][config.schedule] = None
    known, variants = standards(configs), _variants(list(cells))
    found = []
    for cell, runs in cells.items():
        fixes = list(dict.fromkeys(runs))
        one = _suggest(fixes, known, store)
        if one.snippet:
            rivals = [schedule.model_dump() for schedule in settings[cell]] + ["fix", "sched"]
            one = _compared(one, fixes, rivals, store, evals)
        found.append(replace(one, variant=variants[cell]))
    return found


def _compared(
    one: Suggestion,
    fixes: Sequence[RunConfig],
    rivals: Sequence[Any],
    store: Store,
    evals: Sequence[AtStrengths],
) -> Suggestion:
    """The suggestion, compared with each rival setting on the seeds that both have."""
    mine = {fix.seed: twin(fix, {"T1": one.T1, "T2": one.T2}) for fix in fixes}
    ours = {seed: expected_of(run, store, evals) for seed, run in mine.items()}
    leads: dict[str, tuple[float, str]] = {}
    for rival in rivals:
        theirs = {fix.seed: twin(fix, rival) for fix in fixes}
        name = theirs[fixes[0].seed].setting
        both = [
            (value, other)
            for seed, value in ours.items()
            if value is not None and (other := expected_of(theirs[seed], store, evals)) is not None
        ]
        if both and theirs != mine:
            means = [100 * sum(values) / len(both) for values in zip(*both, strict=True)]
            seeds = f"{len(both)} seed{'s' if len(both) > 1 else ''}"
            told = f"expected {means[0]:.1f}% against {means[1]:.1f}% for {name} ({seeds})"
            leads[name] = means[0] - means[1], told
    if not leads:
        return one
    lead, told = min(leads.values())
    if round(lead, EXACT) < 0:
        return replace(one, problem=f"measured worse: {told}", measured=f"worse, {told}")
    return replace(one, measured=f"{'better' if round(lead, EXACT) else 'equal'}, {told}")


def expected_of(config: RunConfig, store: Store, evals: Sequence[AtStrengths]) -> float | None:
    """Expected accuracy in [0, 1] of a run up to its eps_g; None if the store does not have it."""
    for item in evals:
        if item.norm != config.norm or config.epsilon_g.number not in {
            epsilon.number for epsilon in item.epsilons
        }:
            continue
        try:
            record = read_json(store.run(config.id).eval_json(item.id), shapes.Evaluation)
            rows = record["rows"] if record else []
            exact = [row.get("expected") for row in rows if row["epsilon"] == str(config.epsilon_g)]
            if exact and exact[0] is not None:
                return float(exact[0])
            if rows:
                return expected_up_to(curve(rows), config.epsilon_g, item.prior)
        except (DamagedError, ValueError):
            continue
    return None


def _variants(cells: Sequence[RunConfig]) -> dict[RunConfig, str]:
    """Cell -> the fields in which it differs from cells of the same backbone, dataset and eps_g,
    such as 'protocol=lora'; '' if in none."""
    found = {}
    for cell in cells:
        same = ("backbone", "dataset", "epsilon_g")
        alike = [c for c in cells if all(getattr(c, n) == getattr(cell, n) for n in same)]
        fields = [flat(other.to_dict()) for other in alike]
        own = flat(cell.to_dict())
        differing = [name for name in own if any(other[name] != own[name] for other in fields)]
        found[cell] = ", ".join(f"{name}={own[name]}" for name in differing)
    return found


def _suggest(
    fixes: Sequence[RunConfig], known: Mapping[RunConfig, RunConfig], store: Store
) -> Suggestion:
    first = fixes[0]
    name = first.backbone, first.dataset, str(first.epsilon_g)
    found, problems, classes = [], [], None
    for fix in fixes:
        standard = standard_of(fix, known)
        rows = [(run, _finished(run, store)) for run in (standard, fix)]
        absent = [f"{run.setting} run {run.id} is not finished here" for run, r in rows if not r]
        if absent:
            problems += absent
        else:
            found.append((rows[0][1], rows[1][1]))
            classes = classes or classes_of(store.run(fix.id), fix.dataset, rows[1][1])
    if not found:
        more = f" (and {len(problems) - 2} more)" if len(problems) > 2 else ""
        return Suggestion(*name, problem="; ".join(problems[:2]) + more)
    return _of_curves(name, found, first.epochs, classes)


def _of_curves(
    name: tuple[str, str, str],
    found: Sequence[tuple[Rows, Rows]],
    epochs: int,
    classes: int | None,
) -> Suggestion:
    seeds, limit = len(found), threshold(classes)
    if any(clean(standard[-1]) <= limit for standard, _ in found):
        said = f"even standard fine-tuning ends at or below {100 * limit:.3g}% accuracy"
        return Suggestion(*name, seeds=seeds, problem=said)
    T1 = _mean([adapted(standard, classes) for standard, _ in found])
    delays = [delay(fix, epochs, classes) for _, fix in found]
    T2, never = _mean(delays), sum(d >= epochs for d in delays)
    problem = ""
    if T2 <= T1:
        gap = max(clean(standard[-1]) - clean(fix[-1]) for standard, fix in found)
        advice = "no delay is needed, use fix"
        if round(gap - VERY_FAR, EXACT) >= 0:
            advice = f"yet it ends {100 * gap:.1f} points below standard, take T2 from other cells"
        problem = f"fix adapts at epoch {T2}, no later than T1 = {T1}: {advice}"
    return Suggestion(*name, T1=T1, T2=T2, seeds=seeds, problem=problem, never=never)


def adapted(rows: Rows, classes: int | None = None) -> int:
    """First epoch (from 0) at which clean validation accuracy is 90 % of the last epoch's. With few
    `classes`, accuracy by chance is subtracted from both."""
    guessed = chance(classes)
    goal = guessed + REACHED * (clean(rows[-1]) - guessed)
    return next(int(row["epoch"]) for row in rows if round(clean(row) - goal, EXACT) >= 0)


def _mean(epochs: Sequence[int]) -> int:
    """The mean, rounded half up like the hinges of `sched`."""
    return int(Fraction(sum(epochs), len(epochs)) + Fraction(1, 2))


def _finished(config: RunConfig, store: Store) -> Rows:
    """The metrics of each epoch if the run has trained to its end, else []."""
    try:
        rows = read_jsonl(store.run(config.id).metrics, shapes.MetricsRow)
    except DamagedError:
        return []
    return rows if len(rows) >= config.epochs else []


def overall(found: Sequence[Suggestion]) -> str:
    """The mean T1 and T2 of all cells that have both, as the paper uses one pair; '' for fewer than
    two such cells."""
    hinges = [(s.T1, s.T2) for s in found if s.T1 is not None and s.T2 is not None]
    if len(hinges) < 2:
        return ""
    T1, T2 = (_mean([pair[i] for pair in hinges]) for i in (0, 1))
    cells = f"{len(hinges)} of {len(found)}" if len(hinges) < len(found) else str(len(hinges))
    never = sum(bool(one.never) for one in found)
    all_epochs = f" (fix never adapted in {never} of them: all epochs counted)" if never else ""
    return f"mean of {cells} cells{all_epochs}: T1 = {T1}, T2 = {T2}"


def table(found: Sequence[Suggestion]) -> Sheet:
    """A row per cell, for a terminal, with the line for a grid file or the problem. never: how many
    seeds have a fix run that never adapts."""
    shown = Sheet("backbone", "dataset", "eps_g", ">T1", ">T2", ">seeds", ">never", stub=3)
    shown.add_column("for the grid", min_width=max((len(one.snippet) for one in found), default=0))
    shown.add_column("against other settings")
    for one in found:
        hinges = ["" if t is None else str(t) for t in (one.T1, one.T2)]
        cell = one.backbone, one.dataset + f" ({one.variant})" * bool(one.variant), one.epsilon_g
        counts = (str(count or "") for count in (one.seeds, one.never))
        shown.add_row(
            *(*cell, *hinges, *counts),
            one.snippet or one.problem,
            one.measured if one.snippet else "",
        )
    return shown

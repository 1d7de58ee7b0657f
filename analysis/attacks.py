"""Several attacks on the same images of a run, compared.

An image that any attack breaks is not robust. So the accuracy under all attacks together is closest
to the truth, and a single attack overrates the run by the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluation import Evaluation
from analysis.gates import OVERRATED
from analysis.names import NORMS
from analysis.results import Results
from analysis.rounding import half_up, percent
from analysis.runs import Run
from analysis.statistics import robustness
from analysis.tables import ABSENT, Entry, Table
from core.config import Strength
from core.errors import DamagedError, counted
from core.store.flags import read_flags

USUAL = "apgd-ce"
RUN = ("model", "dataset", "setting", "seed")


@dataclass(frozen=True)
class Judged:
    """A run under several attacks of one norm, at ascending strengths up to `strengths[-1]`.

    critical: attack -> for each image the index of the first of these strengths by which the attack
    has broken it, or len(strengths) if none has; shape [n]. tried: attack -> indices of the
    strengths that it has tried; between them it breaks nothing."""

    run: Run
    strengths: tuple[Strength, ...]
    critical: dict[str, np.ndarray]
    tried: dict[str, tuple[int, ...]]
    usual: str
    """Name of the usual attack (apgd-ce), the first of several; '' if it is not among them."""

    @property
    def n(self) -> int:
        """Number of images that all attacks have tried."""
        return len(self.together)

    @cached_property
    def together(self) -> np.ndarray:
        """The critical index of each image under all attacks together, shape [n]. An image that is
        broken at a strength is so at every larger one."""
        return reduce(np.minimum, self.critical.values())

    def at_last(self, name: str) -> bool:
        """Whether an attack has tried the last strength."""
        return len(self.strengths) - 1 in self.tried.get(name, ())

    @property
    def differ(self) -> int:
        """Number of images on which the attacks that tried the last strength disagree there."""
        last = len(self.strengths) - 1
        right = [levels > last for name, levels in self.critical.items() if self.at_last(name)]
        return int((np.any(right, axis=0) != np.all(right, axis=0)).sum())

    def accuracy(self, critical: np.ndarray, level: int = -1) -> float:
        """Accuracy in percent at a strength, by default the last one."""
        return percent(float((critical > level % len(self.strengths)).mean()))

    def expected(self, critical: np.ndarray) -> float:
        """Expected accuracy in percent, by the trapezoid rule over the usual attack's strengths for
        every attack."""
        points = {level: float(self.strengths[level]) for level in self.tried[self.usual]}
        return percent(float(robustness(critical, points).mean()))

    @property
    def overrated(self) -> tuple[float, Strength]:
        """(points, strength): the largest amount by which the accuracy under the usual attack
        exceeds that under all together, and where."""
        critical = self.critical[self.usual]
        gaps = {
            level: self.accuracy(critical, level) - self.accuracy(self.together, level)
            for level in self.tried[self.usual]
        }
        worst = max(gaps, key=gaps.__getitem__)
        return gaps[worst], self.strengths[worst]


def judged(run: Run, most: Strength | None = None) -> Iterator[Judged]:
    """One `Judged` for each norm and split in which at least two attacks have judged the run.

    most: the largest strength to compare at; by default the largest that any of them tried."""
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for one in run.evaluations:
        if one.record and one.kind.at_strengths:
            groups.setdefault((one.norm, one.record["config"]["split"]), []).append(one)
    for evaluations in groups.values():
        # Of one attack alone, the usual case, no flags are read, which takes 2 ms a run.
        several = len({one.attack for one in evaluations}) > 1
        if several and (found := _compared(run, evaluations, most)):
            yield found


def _compared(run: Run, evaluations: Sequence[Evaluation], most: Strength | None) -> Judged | None:
    limit = most if most and most.norm == evaluations[0].norm else None
    asked = [one for one in evaluations if not one.kind.by_distance] or evaluations[:1]
    every = {strength for one in asked for strength in _grid(one)}
    if limit and any(one.kind.by_distance for one in evaluations):
        every.add(limit)
    strengths = tuple(sorted(one for one in every if limit is None or one <= limit))
    levels: dict[str, pd.Series] = {}
    tried: dict[str, tuple[int, ...]] = {}
    usual = ""
    for one in evaluations:
        try:
            found = _levels(run, one, strengths)
        except (OSError, DamagedError):
            continue
        own = strengths if one.kind.by_distance else _grid(one)
        mine = tuple(level for level, strength in enumerate(strengths) if strength in own)
        if len(mine) > 1 and len(found) > len(levels.get(one.attack, ())):
            levels[one.attack], tried[one.attack] = found, mine
            usual = usual or one.attack * (one.config["attack"] == USUAL)
    if len(levels) < 2:
        return None
    common = pd.concat(levels, axis=1, join="inner").sort_index()
    return Judged(run, strengths, {name: common[name].to_numpy() for name in levels}, tried, usual)


def _grid(one: Evaluation) -> list[Strength]:
    return [Strength.parse(text, one.norm or "linf") for text in one.config["epsilons"]]


def _levels(run: Run, one: Evaluation, strengths: Sequence[Strength]) -> pd.Series:
    """Image index -> critical index among `strengths`. Raises OSError, DamagedError."""
    path = run.dir.eval_flags(one.id)
    flags = read_flags(path)
    if flags is None:
        raise FileNotFoundError(path)
    if one.kind.by_distance:
        distance = np.where(flags["correct"], flags["distance"], 0)
        found = (distance[:, None] > np.array([float(s) for s in strengths], np.float32)).sum(1)
    else:
        # For each level of the attack, and for images that it never breaks, the first of
        # `strengths` that is not below it.
        places = [sum(strength < own for strength in strengths) for own in _grid(one)]
        found = np.array([*places, len(strengths)])[flags["critical"]]
    return pd.Series(found, index=flags["index"])


def overrating(run: Run) -> list[str]:
    """A line for each norm and split in which the usual attack overrates a run by more than a
    point."""
    most = run.epsilon_g or None
    return [_overrated(one) for one in judged(run, most) if _is_overrated(one)]


def _is_overrated(one: Judged) -> bool:
    return bool(one.usual) and one.overrated[0] > OVERRATED


def _overrated(one: Judged) -> str:
    points, where = one.overrated
    others = " and ".join(name for name in one.critical if name != one.usual)
    return (
        f"{one.run.dir.id}: {one.usual} overrates it by up to {half_up(points, 1)} points (at "
        f"{where}, {one.n} images) compared with {others}"
    )


def summary(runs: Iterable[Run]) -> list[str]:
    """One line on how far all these runs are overrated, for a terminal; [] if none is."""
    every = [one for run in runs for one in judged(run, run.epsilon_g or None) if one.usual]
    wrong = [one for one in every if _is_overrated(one)]
    if not wrong:
        return []
    worst = max(wrong, key=lambda one: one.overrated[0])
    points, where = worst.overrated
    some, all_ = (len({one.run.dir.id for one in judgements}) for judgements in (wrong, every))
    return [
        f"{worst.usual} overrates {some} of {counted(all_, 'run')} by more than a point, at most "
        f"by {half_up(points, 1)} ({worst.run.dir.id} at {where}); see --attacks"
    ]


@dataclass(frozen=True)
class Lowered:
    """How much lower accuracies of attacked runs are under all attacks together than under the
    usual one, in points."""

    runs: int
    images: tuple[int, int]
    """The smallest and the largest number of images of a run."""
    adv: float
    """Mean difference over runs, in adversarial accuracy."""
    expected: float
    """Mean difference over runs, in expected accuracy."""
    widest: float
    """The largest difference at one strength."""


def lowered(runs: Iterable[Run]) -> Lowered | None:
    """See Lowered; None if no attacked run was judged by the usual attack and another one."""
    every = [
        one for run in runs if run.epsilon_g for one in judged(run, run.epsilon_g) if one.usual
    ]
    if not every:
        return None
    adv, expected = [], []
    for one in every:
        shown, true = one.critical[one.usual], one.together
        adv.append(one.accuracy(shown) - one.accuracy(true))
        expected.append(one.expected(shown) - one.expected(true))
    return Lowered(
        runs=len(every),
        images=(min(one.n for one in every), max(one.n for one in every)),
        adv=float(np.mean(adv)),
        expected=float(np.mean(expected)),
        widest=max(one.overrated[0] for one in every),
    )


def attack_table(results: Results) -> Table | None:
    """A row per run and eps_g, a column per attack: accuracy at eps_g on the images that all of
    them have tried. None if no run was judged by two attacks."""
    lines = [
        one
        for run in results.runs
        for most in results.strengths_of(run)
        for one in judged(run, most)
    ]
    if not lines:
        return None
    names = list(dict.fromkeys(name for one in lines for name in one.critical))
    columns = [*names, *["all"] * (len(names) > 2), "differ"]
    seeds = len({one.run.config["seed"] for one in lines}) > 1
    notes = [
        "Accuracy in % at eps_g, on the images that every attack in the row has tried; "
        f"{ABSENT} where an attack has not tried eps_g",
        "differ: images that one attack breaks at eps_g and another does not",
    ]
    usual = list(dict.fromkeys(one.usual for one in lines if one.usual))
    if usual:
        columns.append("overrated")
        notes.append(
            f"overrated: largest number of points by which {' or '.join(usual)} is above all "
            f"attacks together, at strengths up to eps_g; bold above {OVERRATED:g} point"
        )
    return Table(
        "Runs under several attacks",
        ("Model", "Dataset", "eps_g", "Setting", *["Seed"] * seeds),
        tuple((name,) for name in columns),
        tuple((_labels(one, seeds), tuple(_entries(one, names))[: len(columns)]) for one in lines),
        tuple(notes),
    )


def _entries(one: Judged, names: Sequence[str]) -> Iterator[Entry]:
    shown = [one.critical[name] if one.at_last(name) else None for name in names]
    for levels in (*shown, *[one.together] * (len(names) > 2)):
        yield Entry(ABSENT if levels is None else str(half_up(one.accuracy(levels))))
    yield Entry(f"{one.differ} of {one.n}" if sum(map(one.at_last, names)) > 1 else ABSENT)
    points, where = one.overrated if one.usual else (0.0, None)
    loud = _is_overrated(one)
    yield Entry(f"{half_up(points, 1)} at {where}" if points else ABSENT, bold=loud)


def _labels(one: Judged, seeds: bool) -> tuple[str, ...]:
    about, last = one.run.about, one.strengths[-1]
    norm = "" if last.norm == "linf" else f" ({NORMS[last.norm]})"
    setting = about["setting"] + (f" ({about['variant']})" if about["variant"] else "")
    seed = (str(about["seed"]),) if seeds else ()
    return about["model"], about["dataset"], f"{last}{norm}", setting, *seed


def attack_frame(results: Results) -> pd.DataFrame:
    """The table as a tidy frame: a row per run, strength and attack, with counts of images."""
    rows: list[dict[str, Any]] = []
    for run in results.runs:
        for one in (found for most in results.strengths_of(run) for found in judged(run, most)):
            for name, critical in one.critical.items():
                for level in one.tried[name]:
                    strength = one.strengths[level]
                    rows.append(
                        {
                            **{key: run.about[key] for key in RUN},
                            "run_id": run.dir.id,
                            "attack": name,
                            "norm": strength.norm,
                            "epsilon": str(strength),
                            "n": one.n,
                            "correct": int((critical > level).sum()),
                            "correct_under_all": int((one.together > level).sum()),
                        }
                    )
    return pd.DataFrame(rows).drop_duplicates()

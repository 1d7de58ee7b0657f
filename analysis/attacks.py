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


@dataclass(frozen=True)
class Judged:
    """A run under several attacks of one norm, at ascending strengths up to `strengths[-1]`.

    critical: attack -> for each image the index of the first of these strengths at which the attack
    breaks it, or len(strengths) if none does; shape [n]."""

    run: Run
    strengths: tuple[Strength, ...]
    critical: dict[str, np.ndarray]
    usual: str
    """Name of the usual attack (apgd-ce); '' if it is not among them."""

    @property
    def n(self) -> int:
        """Number of images that all attacks have tried."""
        return len(self.together)

    @cached_property
    def together(self) -> np.ndarray:
        """The critical index of each image under all attacks together, shape [n]."""
        return reduce(np.minimum, self.critical.values())

    @property
    def differ(self) -> int:
        """Number of images on which the attacks disagree at the last strength."""
        right = [levels > len(self.strengths) - 1 for levels in self.critical.values()]
        return int((np.any(right, axis=0) != np.all(right, axis=0)).sum())

    def accuracy(self, critical: np.ndarray, level: int = -1) -> float:
        """Accuracy in percent at a strength, by default the last one."""
        return percent(float((critical > level % len(self.strengths)).mean()))

    def expected(self, critical: np.ndarray) -> float:
        """Expected accuracy in percent, by the trapezoid rule over these strengths for every
        attack."""
        points = {level: float(one) for level, one in enumerate(self.strengths)}
        return percent(float(robustness(critical, points).mean()))

    @property
    def overrated(self) -> tuple[float, Strength]:
        """(points, strength): the largest amount by which the accuracy under the usual attack
        exceeds that under all together, and where."""
        gaps = [
            self.accuracy(self.critical[self.usual], level) - self.accuracy(self.together, level)
            for level in range(len(self.strengths))
        ]
        worst = int(np.argmax(gaps))
        return gaps[worst], self.strengths[worst]


def judged(run: Run, most: Strength | None = None) -> Iterator[Judged]:
    """One `Judged` for each norm and split in which at least two attacks have judged the run.

    most: the largest strength to compare at; by default the largest that they share."""
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for one in run.evaluations:
        if one.record and one.kind.at_strengths:
            groups.setdefault((one.norm, one.record["config"]["split"]), []).append(one)
    for evaluations in groups.values():
        if len({one.attack for one in evaluations}) < 2:
            continue  # the usual case: saves reading its flags, 2 ms a run
        found = _compared(run, evaluations, most)
        if found and len(found.critical) > 1 and len(found.strengths) > 1:
            yield found


def _compared(run: Run, evaluations: Sequence[Evaluation], most: Strength | None) -> Judged | None:
    norm = evaluations[0].norm
    grids = [one for one in evaluations if not one.kind.by_distance] or evaluations[:1]
    shared = set.intersection(
        *(
            {Strength.parse(text, norm or "linf") for text in one.config["epsilons"]}
            for one in grids
        )
    )
    limit = most if most and most.norm == norm else None
    strengths = tuple(sorted(one for one in shared if limit is None or one <= limit))
    levels: dict[str, pd.Series] = {}
    usual = ""
    for one in evaluations:
        try:
            found = _levels(run, one, strengths)
        except (OSError, DamagedError):
            continue
        if one.attack not in levels or len(found) > len(levels[one.attack]):
            levels[one.attack] = found
            usual = one.attack if one.config["attack"] == USUAL else usual
    if not levels:
        return None
    common = pd.concat(levels, axis=1, join="inner").sort_index()
    return Judged(run, strengths, {name: common[name].to_numpy() for name in levels}, usual)


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
        grid = [Strength.parse(text, one.norm or "linf") for text in one.config["epsilons"]]
        at = np.array([grid.index(strength) for strength in strengths])
        found = (flags["critical"][:, None] > at).sum(1)
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
    return [
        f"{worst.usual} overrates {len(wrong)} of {counted(len(every), 'run')} by more than a "
        f"point, at most by {half_up(points, 1)} ({worst.run.dir.id} at {where}); see --attacks"
    ]


@dataclass(frozen=True)
class Lowered:
    """How much lower accuracies of attacked runs are under all attacks together than under the
    usual one, in points."""

    runs: int
    images: int
    """The smallest number of images of a run."""
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
        images=min(one.n for one in every),
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
    columns = [*names, *["all"] * (len(names) > 2), "differ", "overrated"]
    seeds = len({one.run.config["seed"] for one in lines}) > 1
    usual = next((one.usual for one in lines if one.usual), "the usual attack")
    notes = [
        "Accuracy in % at eps_g, on the images that every attack in the row has tried",
        "differ: images that one attack breaks at eps_g and another does not",
        f"overrated: largest number of points by which {usual} is above all attacks together, at "
        f"strengths up to eps_g; bold above {OVERRATED:g} point",
    ]
    return Table(
        "Runs under several attacks",
        ("Model", "Dataset", "eps_g", "Setting", *["Seed"] * seeds),
        tuple((name,) for name in columns),
        tuple((_labels(one, seeds), tuple(_entries(one, names))) for one in lines),
        tuple(notes),
    )


def _entries(one: Judged, names: Sequence[str]) -> Iterator[Entry]:
    for levels in (*map(one.critical.get, names), *[one.together] * (len(names) > 2)):
        yield Entry(ABSENT if levels is None else str(half_up(one.accuracy(levels))))
    yield Entry(f"{one.differ} of {one.n}")
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
                for level, strength in enumerate(one.strengths):
                    rows.append(
                        {
                            **{
                                key: run.about[key]
                                for key in ("model", "dataset", "setting", "seed")
                            },
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

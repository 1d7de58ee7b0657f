"""One search for hyper-parameters: what is searched, its progress, and its winner.

A search is named by what it tries, so that grids share it. Each trial works in its own folder,
under a claim like a run; `trial.json` there records how it ended, and these files are the truth
about the search. When the budget is used up, the winner is written, once:

    <root>/tuned/<search id>/search.json                what is searched
                             journal.log                what Optuna knows, see sweep.tune.study
                             trials/0007/               trial 7: like a run's folder, no weights
                             winner-20-trials.json      for this budget; another has its own file
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import Optim, RunConfig
from core.config.values import encode
from core.errors import DamagedError
from core.store import shapes
from core.store.claims import now
from core.store.folders import RunDir
from core.store.holder import find_holder
from core.store.json_files import read_json, write_json
from core.store.records import Goal
from sweep.grid.tune_block import Range

DIGITS = 3
"""Significant digits of a proposed value: no accuracy depends on more."""
REAL = ("completed", "pruned", "diverged")
"""States of a trial that counts towards the budget: trained to its end, stopped early, or with an
infinite loss."""


@dataclass(frozen=True)
class Trial:
    """One trial as its folder shows it. state: one of REAL, or failed, running, interrupted, new,
    or pending if its worker's job is queued again and will resume it."""

    number: int
    state: str
    record: Mapping[str, Any] = field(default_factory=dict)
    """Params, value (None unless completed), epochs and images; empty until the trial has ended."""
    seconds: float = 0.0
    """How long workers have held it, all attempts together."""
    reason: str | None = None
    kind: str | None = None
    """Class of a failure or an interruption, as for runs: oom, preempted, hung, ..."""
    job: str | None = None
    """The job that last had it, or will resume it."""


@dataclass(frozen=True)
class Search:
    """What is tried, and the budget. config: the run whose hyper-parameters are searched; goal: the
    accuracy to maximise."""

    config: RunConfig
    ranges: Mapping[str, Range]
    goal: Goal
    grace: int
    reduction: int
    trials: int
    minutes: float | None
    folder: Path
    """The folder of all searches: <root>/tuned."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(encode(self._tried()).encode()).hexdigest()[:16]
        object.__setattr__(self, "id", f"{self.config.slug}-{digest}")

    def _tried(self) -> dict[str, Any]:
        """All but the budget, so that a larger budget continues the same trials."""
        return {
            "config": self.config.delta,
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "objective": self.goal,
            "grace": self.grace,
            "reduction": self.reduction,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `parse` reads."""
        budget = {"trials": self.trials, "minutes": self.minutes}
        return self._tried() | budget | {"config": self.config.to_dict()}

    @classmethod
    def parse(cls, data: Mapping[str, Any], folder: Path) -> Search:
        """The search that the plain data of a manifest describes."""
        return cls(
            RunConfig.parse(data["config"]),
            {name: tuple(ends) for name, ends in data["ranges"].items()},
            data["objective"],
            data["grace"],
            data["reduction"],
            data["trials"],
            data["minutes"],
            folder,
        )

    @property
    def name(self) -> str:
        """The readable part of the id."""
        return self.id.rpartition("-")[0]

    @property
    def epochs(self) -> float:
        """Average number of epochs of a trial, if at each rung one in `reduction` goes on, and
        always at least the best one."""
        total, rung, share = float(min(self.grace, self.config.epochs)), self.grace, 1.0
        while rung < self.config.epochs:
            share = max(share / self.reduction, 1 / max(self.trials, 1))
            total += share * (min(rung * self.reduction, self.config.epochs) - rung)
            rung *= self.reduction
        return total

    @property
    def path(self) -> Path:
        return self.folder / self.id

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def winner_file(self) -> Path:
        minutes = f"-{self.minutes:g}-minutes" if self.minutes else ""
        return self.path / f"winner-{self.trials}-trials{minutes}.json"

    def trial_dir(self, number: int) -> RunDir:
        return RunDir(self.path / "trials" / f"{number:04d}")

    def winner(self) -> dict[str, Any] | None:
        """The recorded winner, or None if the budget is not used up yet."""
        with suppress(DamagedError):  # it is written anew from the trials
            return read_json(self.winner_file, shapes.Winner)
        return None


def rounded(value: float, low: float, high: float) -> float:
    """A proposed value with DIGITS significant digits, within [low, high]."""
    return min(high, max(low, float(f"{value:.{DIGITS}g}")))


@dataclass(frozen=True)
class Progress:
    """A search, the trials within its budget, and its winner if it is recorded."""

    search: Search
    trials: Sequence[Trial]
    winner: Mapping[str, Any] | None
    counts: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counter(trial.state for trial in self.trials))

    @property
    def real(self) -> int:
        """How many trials have ended in a state that counts, see REAL."""
        return sum(self.counts[state] for state in REAL)

    @property
    def waiting(self) -> int:
        """How many trials a worker could take now, without retries of failed ones."""
        return self.counts["interrupted"] + (0 if self.out_of_time else self.counts["new"])

    @property
    def ranked(self) -> list[Trial]:
        """Completed trials, the best first; ties in order of number."""
        done = [trial for trial in self.trials if trial.state == "completed"]
        return sorted(done, key=lambda trial: -trial.record["value"])

    @property
    def values(self) -> list[float]:
        """The values of the completed trials, the best first."""
        return [trial.record["value"] for trial in self.ranked]

    @property
    def minutes(self) -> float:
        """Minutes of all workers together."""
        return sum(trial.seconds for trial in self.trials) / 60

    @property
    def out_of_time(self) -> bool:
        """Whether no further trial may begin."""
        return self.search.minutes is not None and self.minutes >= self.search.minutes

    @property
    def over(self) -> bool:
        """Whether the budget is used up: no trial is left to begin, to resume or to retry."""
        given_up = {"new", "failed"} if self.out_of_time else set[str]()
        return all(trial.state in REAL or trial.state in given_up for trial in self.trials)


def look(search: Search) -> Progress:
    """The progress of a search, read from its folder."""
    trials = [_trial(search, number) for number in range(search.trials)]
    return Progress(search, trials, search.winner())


def _trial(search: Search, number: int) -> Trial:
    run = search.trial_dir(number)
    current = find_holder(run)
    if current is None:
        return Trial(number, "new")
    ended = record(run)
    if ended is not None:
        return Trial(number, ended["state"], ended, current.seconds, ended["reason"])
    if current.live:
        return Trial(number, "running", {}, current.seconds)
    state = "failed" if current.outcome == "failed" else "interrupted"
    return Trial(number, state, {}, current.seconds, current.info.get("reason"))


def trial_file(run: RunDir) -> Path:
    """The file that records how a trial ended; it does not exist before."""
    return run.path / "trial.json"


def record(run: RunDir) -> dict[str, Any] | None:
    """How a trial ended. None if it has not, or if its file is damaged: it is then done again."""
    with suppress(DamagedError):
        return read_json(trial_file(run), shapes.Trial)
    return None


def damage(run: RunDir) -> str | None:
    """What is wrong with the file that records how a trial ended; None if nothing is."""
    try:
        read_json(trial_file(run), shapes.Trial)
    except DamagedError as error:
        return f"{trial_file(run).name}: {error.reason}"
    return None


def forget(run: RunDir) -> None:
    """Remove the weights of a trial that has ended; its record stays."""
    for path in (run.checkpoint, run.previous_checkpoint):
        run.remove(path)


def with_params(config: RunConfig, params: Mapping[str, Any]) -> RunConfig:
    """`config` with these values for fields of its optimiser. params: 'optim.lr' -> value."""
    values = {name.removeprefix("optim."): value for name, value in params.items()}
    return config.with_optim(Optim.model_validate({**config.optim.model_dump(), **values}))


def conclude(search: Search) -> Progress:
    """The progress of a search; records its winner if the budget is used up. Several processes may
    do so at once: they all write the same."""
    seen = look(search)
    if seen.winner is None and seen.over:
        write_json(search.winner_file, _winner(seen))
        for trial in seen.trials:  # a worker may have died before it removed its weights
            forget(search.trial_dir(trial.number))
        seen = look(search)
    return seen


def _winner(seen: Progress) -> dict[str, Any]:
    search, ranked = seen.search, seen.ranked
    best = ranked[0].record if ranked else {}
    return {
        "search": search.id,
        "objective": search.goal,
        "params": best.get("params"),
        "value": best.get("value"),
        "trial": ranked[0].number if ranked else None,
        "images": best.get("images"),
        "trials": seen.real,
        **{state: seen.counts[state] for state in (*REAL, "failed")},
        "second": _short(ranked[1]) if len(ranked) > 1 else None,
        "spread": spread(seen.values),
        "budget": {"trials": search.trials, "minutes": search.minutes},
        "minutes": round(seen.minutes, 2),
        "seed": search.config.seed,
        "optuna": best.get("optuna"),
        "recorded": now(),
    }


def _short(trial: Trial) -> dict[str, Any]:
    return {"trial": trial.number, **{key: trial.record[key] for key in ("params", "value")}}


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Lowest, highest and sample standard deviation of the values of completed trials. None if
    there are none; std is None for a single value."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"lowest": min(values), "highest": max(values), "std": std}

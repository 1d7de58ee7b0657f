"""One search for hyper-parameters: what is searched, how far it is, and the winner it ends with.

A search is named by what it tries, so that grids share it. Trial k of it works in a folder of its
own, under a claim like any run; `trial.json` there says how it ended, and these files are the truth
about the search. Where its budget is used up, the winner is written, once:

    <root>/tuned/<search id>/search.json                what is searched
                             journal.log                what Optuna knows, see sweep.tune.study
                             trials/0007/               trial 7: as a run's folder, without weights
                             winner-20-trials.json      of this budget; another has its own
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
"""Of a proposed value: no accuracy depends on more."""
REAL = ("completed", "pruned", "diverged")
"""How a trial ends that counts: trained to its end, stopped early, or an infinite loss."""


@dataclass(frozen=True)
class Trial:
    """One trial as its folder tells. state: one of REAL, or failed, running, interrupted, new, and
    pending where its worker's job is queued to come back to it."""

    number: int
    state: str
    record: Mapping[str, Any] = field(default_factory=dict)
    """Of an ended trial: params, value (None unless completed), epochs, images."""
    seconds: float = 0.0
    """How long workers have held it."""
    reason: str | None = None
    kind: str | None = None
    """Class of a failure or an interruption, as of runs: oom, preempted, hung, ..."""
    job: str | None = None
    """That last had it, or is to come back to it."""


@dataclass(frozen=True)
class Search:
    """What is tried, and the budget. config: the run whose hyper-parameters are searched."""

    config: RunConfig
    ranges: Mapping[str, Range]
    goal: Goal
    grace: int
    reduction: int
    trials: int
    minutes: float | None
    folder: Path
    """Where searches lie: <root>/tuned."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        text = encode(self._tried())
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        object.__setattr__(self, "id", f"{self.config.slug}-{digest}")

    def _tried(self) -> dict[str, Any]:
        """All but the budget: a larger one goes on with the same trials."""
        return {
            "config": self.config.delta,
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "objective": self.goal,
            "grace": self.grace,
            "reduction": self.reduction,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `parse` takes it back."""
        budget = {"trials": self.trials, "minutes": self.minutes}
        return self._tried() | budget | {"config": self.config.to_dict()}

    @classmethod
    def parse(cls, data: Mapping[str, Any], folder: Path) -> Search:
        """From the plain data of a manifest."""
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
        """Of a trial on average, where one in `reduction` goes on at each of its rungs, and at
        least the best one."""
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
        """The recorded winner, None before the budget is used up."""
        with suppress(DamagedError):  # the trials tell it again
            return read_json(self.winner_file, shapes.Winner)
        return None


def rounded(value: float, low: float, high: float) -> float:
    """A proposed value with the digits that matter."""
    return min(high, max(low, float(f"{value:.{DIGITS}g}")))


@dataclass(frozen=True)
class Progress:
    """A search and its trials, as far as its budget goes."""

    search: Search
    trials: Sequence[Trial]
    winner: Mapping[str, Any] | None
    counts: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counter(trial.state for trial in self.trials))

    @property
    def real(self) -> int:
        """Trials that count."""
        return sum(self.counts[state] for state in REAL)

    @property
    def waiting(self) -> int:
        """Trials that a worker could take now, retries apart."""
        return self.counts["interrupted"] + (0 if self.out_of_time else self.counts["new"])

    @property
    def ranked(self) -> list[Trial]:
        """Completed trials, the best first; of equals the earlier one."""
        done = [trial for trial in self.trials if trial.state == "completed"]
        return sorted(done, key=lambda trial: -trial.record["value"])

    @property
    def values(self) -> list[float]:
        """Of completed trials, the best first."""
        return [trial.record["value"] for trial in self.ranked]

    @property
    def minutes(self) -> float:
        """Of all workers together."""
        return sum(trial.seconds for trial in self.trials) / 60

    @property
    def out_of_time(self) -> bool:
        """Whether no further trial may begin."""
        return self.search.minutes is not None and self.minutes >= self.search.minutes

    @property
    def over(self) -> bool:
        """Whether the budget is used up: nothing is left to begin, to go on with, or to retry."""
        given_up = {"new", "failed"} if self.out_of_time else set[str]()
        return all(trial.state in REAL or trial.state in given_up for trial in self.trials)


def look(search: Search) -> Progress:
    """How far a search is."""
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
    state = "failed" if current.info.get("outcome") == "failed" else "interrupted"
    return Trial(number, state, {}, current.seconds, current.info.get("reason"))


def trial_file(run: RunDir) -> Path:
    """How a trial ended; not there before it has."""
    return run.path / "trial.json"


def record(run: RunDir) -> dict[str, Any] | None:
    """How a trial ended; None before it has, and if that cannot be read: it is to be done again."""
    with suppress(DamagedError):
        return read_json(trial_file(run), shapes.Trial)
    return None


def damage(run: RunDir) -> str | None:
    """What is wrong with the file that tells how a trial ended; None if nothing is."""
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
    """`config` with other values of fields of its optimiser."""
    values = {name.removeprefix("optim."): value for name, value in params.items()}
    return config.with_optim(Optim.model_validate({**config.optim.model_dump(), **values}))


def conclude(search: Search) -> Progress:
    """Look at a search, and record its winner if its budget is used up. Of several processes that
    do so at once, all write the same."""
    seen = look(search)
    if seen.winner is None and seen.over:
        write_json(search.winner_file, _winner(seen))
        for trial in seen.trials:  # those of a worker that died before it could
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
    """Of the values of completed trials, None where there are none; std is that of a sample, None
    of a single one."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"lowest": min(values), "highest": max(values), "std": std}

"""What runs cost: their operations, which follow from their configs, divided by the speed of a
device, which is measured on finished runs of the store or, before there are any, a constant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from core.config import EvalConfig, RunConfig, own_code
from core.errors import counted
from core.store.folders import Store
from slurm.profile import Profile
from sweep.estimate import finished
from sweep.estimate.device import SHIPPED, TFLOPS, find_device, most_at_once, shipped_speed
from sweep.estimate.passes import Passes, count_passes, gflops, sizes_of
from sweep.grid import Run
from sweep.grid.search import Search

SMALL_GFLOPS = 0.5
"""Below this, a forward pass is mostly overhead, so only a measured speed gives an estimate."""


@dataclass(frozen=True)
class Sum:
    """Hours of several runs or searches. known: the sum of those with an estimate; unknown: how
    many have none."""

    known: float = 0.0
    unknown: int = 0

    @classmethod
    def of(cls, hours: Iterable[float | None]) -> Sum:
        every = [*hours]
        known = [one for one in every if one is not None]
        return cls(sum(known, 0.0), len(every) - len(known))

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.known + other.known, self.unknown + other.unknown)

    @property
    def hours(self) -> float | None:
        """Hours of all of them; None if some are unknown."""
        return None if self.unknown else self.known

    def as_dict(self) -> dict[str, float | None]:
        return {"hours": self.hours, "known": self.known, "unknown": self.unknown}


class Work(NamedTuple):
    """What a run takes; None for what is unknown."""

    petaflops: float | None
    """10^15 operations in all; None if those of its backbone, or its dataset, are unknown."""
    training: float | None
    """10^15 operations of its training, without evaluations."""
    hours: float | None
    """Hours on one device."""
    phases: Mapping[str, float] = {}
    """Phase -> its part of `hours`: training, and evaluations by their attack."""


class _Alike(NamedTuple):
    """Runs that differ only in network, seed and hyper-parameters; 1,440 runs form 36 such
    groups."""

    evals: Sequence[EvalConfig]
    """Kept alive, because the key of `Cost._alike` holds the `id()` of these objects."""
    passes: Passes
    works: dict[tuple[float, bool, float | None], Work]
    """(GFLOPs of a forward pass, whether they are known, measured TFLOP/s or None) -> work."""


def by_phase(works: Iterable[Work], before: Sum) -> dict[str, Sum]:
    """Phase -> hours of these runs, and of the searches before them as phase 'search'."""
    total: dict[str, float] = defaultdict(float)
    unknown = 0
    for work in works:
        unknown += work.hours is None
        for name, hours in work.phases.items():
            total[name] += hours
    found = {name: Sum(hours, unknown) for name, hours in total.items()}
    return {"training": found.pop("training", Sum(0, unknown)), "search": before, **found}


@dataclass
class Cost:
    """Estimates hours of runs on one device."""

    device: str
    store: Store
    tflops: float
    own: Mapping[str, float] = field(default_factory=dict)
    """Kind of run (`_kind`) -> TFLOP/s measured on finished runs."""
    runs: int = 0
    """Number of finished runs that the speeds were measured on."""
    timed: int = 0
    """How many of them have a backbone whose operations are unknown: their speed is in passes of
    their own kind, and counts for no other."""
    at_once: int | None = None
    """Devices that may work at the same time under the profile; None if unknown."""
    cores: float | None = None
    """CPU cores that a run has used, as a mean over finished runs; None if unknown, or on GPUs."""
    _sizes: dict[str, Mapping[str, int] | None] = field(default_factory=dict)
    _alike: dict[Any, _Alike] = field(default_factory=dict)

    @property
    def on_gpus(self) -> bool:
        return self.device != "CPU"

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.on_gpus else "core-hours"

    @property
    def basis(self) -> str:
        """Where the speed comes from, as a phrase."""
        name = self.device if self.on_gpus else "CPU core"
        runs = f"as in {counted(self.runs, 'run')} here ({', '.join(self.own)})"
        if self.runs > self.timed:
            return f"at {self.tflops:.3g} TFLOP/s per {name}, {runs}"
        if self.runs:
            return runs
        if self.device not in TFLOPS:
            return f"as if {name} were an H100 at {self.tflops:g} TFLOP/s; {SHIPPED}"
        where = f"; {SHIPPED}" if self.on_gpus else ""
        return f"at {self.tflops:g} TFLOP/s per {name}{where}"

    @property
    def shipped(self) -> Cost:
        """The estimate without any finished run."""
        return Cost(self.device, self.store, shipped_speed(self.device))

    def work(self, config: RunConfig, evals: Sequence[EvalConfig]) -> Work:
        """The work of a run with these evaluations."""
        sizes, (each, known) = self.sizes(config.dataset), gflops(config)
        own = self.own.get(_kind(config))
        if not sizes or not (known or own):
            return Work(None, None, None)
        alike, key = self._those_like(config, evals, sizes), (each, known, own)
        if key not in alike.works:
            alike.works[key] = self._work(alike, *key)
        return alike.works[key]

    def _work(self, alike: _Alike, each: float, known: bool, own: float | None) -> Work:
        found = alike.passes
        training, whole = found.fit * each / 1e6, (found.fit + found.evaluate) * each / 1e6
        if not own and each < SMALL_GFLOPS:
            return Work(whole, training, None)
        hour = (own or self.tflops) * 3.6e6 / each  # forward passes of one image in an hour
        phases = defaultdict(float, training=found.fit / hour)
        for item, passes in zip(alike.evals, found.evaluations, strict=True):
            phases[own_code.label(item.attack)] += passes / hour
        total = sum(phases.values())
        return Work(whole, training, total, phases) if known else Work(None, None, total, phases)

    def _those_like(
        self, config: RunConfig, evals: Sequence[EvalConfig], sizes: Mapping[str, int]
    ) -> _Alike:
        key = (
            *(config.dataset, config.batch, config.epochs, config.schedule, config.attack.steps),
            *(config.validation, config.protocol, config.objective),
            # By id(), as all runs of a grid share these objects and hashing them takes longest.
            *map(id, evals),
        )
        if key not in self._alike:
            self._alike[key] = _Alike(evals, count_passes(config, evals, sizes), {})
        return self._alike[key]

    def hours(self, config: RunConfig, evals: Sequence[EvalConfig]) -> float | None:
        """Hours of a run on one device; None if unknown."""
        return self.work(config, evals).hours

    def total(self, runs: Iterable[Run]) -> Sum:
        """Hours of several runs."""
        return Sum.of(self.hours(run.config, run.evals) for run in runs)

    def searching(self, searches: Iterable[Search]) -> Sum:
        """Hours of the unfinished searches, each with its whole budget."""
        return Sum.of(self._searching(one) for one in searches if one.winner() is None)

    def _searching(self, one: Search) -> float | None:
        hours = self.hours(one.config, ())
        if hours is None:
            return None
        trials = one.trials * hours * one.epochs / one.config.epochs
        return min(trials, one.minutes / 60 if one.minutes else trials)

    def as_dict(self, runs: Sequence[Run], searches: Iterable[Search] = ()) -> dict[str, Any]:
        """The shape of `estimate` in `sweep plan --json`: hours of all runs, of each run by its id,
        of the searches before them, and of each phase. A sum is null if a part of it is unknown;
        beside it are the sum of the known parts and the number of unknown ones."""
        works = {run.id: self.work(run.config, run.evals) for run in runs}
        hours = {name: work.hours for name, work in works.items()}
        about = {"device": self.device, "unit": self.unit, "basis": self.basis}
        searching = self.searching(searches)
        phases = {k: total.as_dict() for k, total in by_phase(works.values(), searching).items()}
        before = searching.as_dict()
        others = {"searches": before.pop("hours")} | {f"searches_{k}": v for k, v in before.items()}
        every = Sum.of(hours.values()).as_dict()
        return {**about, **every, **others, "phases": phases, "runs": hours}

    def sizes(self, dataset: str) -> Mapping[str, int] | None:
        """Images per split."""
        if dataset not in self._sizes:
            self._sizes[dataset] = sizes_of(dataset, self.store)
        return self._sizes[dataset]


def _kind(config: RunConfig) -> str:
    """The kind of a run: those with the same backbone and precision are taken to be equally
    fast."""
    return config.backbone + (f" in {config.precision}" if config.precision != "fp32" else "")


def of(
    profile: Profile, store: Store, hardware: object = "", backbones: Collection[str] = ()
) -> Cost:
    """The estimate for runs under a profile. hardware: the grid's `about.hardware`, used if the
    profile names no GPU. backbones: of these runs, so that no more of the store is read than they
    need; by default, all that has finished may count."""
    device = find_device(profile, str(hardware or ""))
    shipped = Cost(device, store, shipped_speed(device), at_once=most_at_once(profile, device))
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    every: list[tuple[float, float]] = []  # of backbones whose operations are known
    spent, taken = 0.0, 0.0  # seconds of the runs, and of their devices
    for config, seconds, devices in finished.sample(store, device, backbones):
        spent, taken = spent + seconds, taken + seconds * devices
        sizes, (each, known) = shipped.sizes(config.dataset), gflops(config)
        if sizes:
            pair = count_passes(config, (), sizes).fit * each / 1e3, seconds * devices
            seen[_kind(config)].append(pair)
            every += [pair] * known
    cores = taken / spent if spent and not shipped.on_gpus else None
    if not seen:
        return replace(shipped, cores=cores)
    speed = _speed(every) if every else shipped.tflops
    speeds = {name: _speed(pairs) for name, pairs in seen.items()}
    runs = sum(map(len, seen.values()))
    return replace(
        shipped, tflops=speed, own=speeds, runs=runs, timed=runs - len(every), cores=cores
    )


def _speed(pairs: Sequence[tuple[float, float]]) -> float:
    """TFLOP/s of (TFLOP, seconds) pairs."""
    return sum(work for work, _ in pairs) / sum(seconds for _, seconds in pairs)

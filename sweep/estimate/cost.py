"""What runs cost: operations, which follow from their configs, and how fast a device makes them,
which finished runs of the store tell (before there are any, a shipped constant).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from core.config import EvalConfig, RunConfig, own_code
from core.errors import DamagedError, counted
from core.store import shapes
from core.store.folders import Store
from core.store.json_files import read_json, salvage
from slurm.profile import Profile
from sweep.estimate.passes import Passes, count_passes, gflops, sizes_of
from sweep.grid import Run
from sweep.grid.search import Search

TFLOPS = {"H100": 32.0, "H200": 32.0, "A100": 10.0, "V100": 7.5, "CPU": 0.07}
"""What one device achieves, in TFLOP/s. H100: the attacked runs of the paper's main grid take 230
PFLOP on average and took it 15 to 60 minutes on four (in the middle 2 GPU-hours a run). Others: by
their peak in fp32. CPU: one core, measured on a ViT-B of 224 pixels."""
SHIPPED = "the paper's 15 to 60 minutes on 4 x H100 per run; no finished run here tells more"
SMALL_GFLOPS = 0.5
"""Below, a forward is all overhead: only measured speeds tell what it takes."""
SAMPLE = 8
"""Finished runs per backbone that are looked at."""


@dataclass(frozen=True)
class Sum:
    """Hours of several runs or searches: of those with an estimate, and how many have none."""

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
        """Of all of them; None unless each is known."""
        return None if self.unknown else self.known

    def as_dict(self) -> dict[str, float | None]:
        return {"hours": self.hours, "known": self.known, "unknown": self.unknown}


class Work(NamedTuple):
    """What a run takes, each None if nothing tells."""

    petaflops: float | None
    """10^15 operations; None if its backbone or dataset is not known."""
    training: float | None
    """Those of them that are not its evaluations."""
    hours: float | None
    """Of one device."""
    phases: Mapping[str, float] = {}
    """Phase -> its part of these hours: training, and each kind of evaluation by its attack."""


class _Alike(NamedTuple):
    """Runs that differ in their networks, seeds and rates alone: 1,440 runs are 36 of these."""

    evals: Sequence[EvalConfig]
    """Kept, because the runs are told apart by the ids of these objects."""
    passes: Passes
    works: dict[tuple[float, float | None], Work]
    """By the GFLOPs of a forward, and the TFLOP/s of such runs if known."""


def by_phase(works: Iterable[Work], before: Sum) -> dict[str, Sum]:
    """Hours of runs phase by phase, with those of the searches before them."""
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
    """By kind of run (`_kind`) its TFLOP/s, where finished runs tell."""
    runs: int = 0
    """Finished runs by which this is calibrated."""
    at_once: int | None = None
    """Devices that the profile lets work at the same time, if that is known."""
    _sizes: dict[str, Mapping[str, int] | None] = field(default_factory=dict)
    _alike: dict[Any, _Alike] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return "core-hours" if self.device == "CPU" else "GPU-hours"

    @property
    def basis(self) -> str:
        """From what the speed is known."""
        name = "CPU core" if self.device == "CPU" else self.device
        if self.runs:
            kinds = ", ".join(self.own)
            runs = f"{counted(self.runs, 'run')} here ({kinds})"
            return f"at {self.tflops:.3g} TFLOP/s per {name}, as in {runs}"
        if self.device not in TFLOPS:
            return f"as if {name} were an H100 at {self.tflops:g} TFLOP/s; {SHIPPED}"
        where = "" if self.device == "CPU" else f"; {SHIPPED}"
        return f"at {self.tflops:g} TFLOP/s per {name}{where}"

    @property
    def shipped(self) -> Cost:
        """The estimate as it was before anything ran."""
        return Cost(self.device, self.store, _shipped(self.device))

    def work(self, config: RunConfig, evals: Sequence[EvalConfig]) -> Work:
        """Of a run with these evaluations."""
        sizes, each = self.sizes(config.dataset), gflops(config)
        if not sizes or not each:
            return Work(None, None, None)
        alike, own = self._those_like(config, evals, sizes), self.own.get(_kind(config))
        if (each, own) not in alike.works:
            alike.works[each, own] = self._work(alike, each, own)
        return alike.works[each, own]

    def _work(self, alike: _Alike, each: float, own: float | None) -> Work:
        found = alike.passes
        training, whole = found.fit * each / 1e6, (found.fit + found.evaluate) * each / 1e6
        if not own and each < SMALL_GFLOPS:
            return Work(whole, training, None)
        hour = (own or self.tflops) * 3.6e6 / each  # forwards of an image
        phases = defaultdict(float, training=found.fit / hour)
        for item, passes in zip(alike.evals, found.evaluations, strict=True):
            phases[own_code.label(item.attack)] += passes / hour
        return Work(whole, training, sum(phases.values()), phases)

    def _those_like(
        self, config: RunConfig, evals: Sequence[EvalConfig], sizes: Mapping[str, int]
    ) -> _Alike:
        key = (
            *(config.dataset, config.batch, config.epochs, config.schedule, config.attack.steps),
            *(config.validation, config.protocol, config.objective),
            # All runs of a grid have the same ones, whose hashes would take longer than all else.
            *map(id, evals),
        )
        if key not in self._alike:
            self._alike[key] = _Alike(evals, count_passes(config, evals, sizes), {})
        return self._alike[key]

    def hours(self, config: RunConfig, evals: Sequence[EvalConfig]) -> float | None:
        """Of one device; None where nothing tells."""
        return self.work(config, evals).hours

    def total(self, runs: Iterable[Run]) -> Sum:
        """Hours of several runs."""
        return Sum.of(self.hours(run.config, run.evals) for run in runs)

    def searching(self, searches: Iterable[Search]) -> Sum:
        """Hours of the searches that are not finished, by their whole budgets."""
        return Sum.of(self._searching(one) for one in searches if one.winner() is None)

    def _searching(self, one: Search) -> float | None:
        hours = self.hours(one.config, ())
        if hours is None:
            return None
        trials = one.trials * hours * one.epochs / one.config.epochs
        return min(trials, one.minutes / 60 if one.minutes else trials)

    def as_dict(self, runs: Sequence[Run], searches: Iterable[Search] = ()) -> dict[str, Any]:
        """The shape of `estimate` in `sweep plan --json`: hours of all runs, of each by its id, of
        the searches before them, and phase by phase. A sum is null unless each of its parts is
        known; beside it are the sum of the known ones and how many are unknown."""
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
    """What runs of one speed have in common."""
    return config.backbone + (f" in {config.precision}" if config.precision != "fp32" else "")


def of(profile: Profile, store: Store, hardware: object = "") -> Cost:
    """The estimate for runs of a profile. hardware: what the grid's author had in mind, where the
    profile names no GPU."""
    device = device_of(profile, str(hardware or ""))
    shipped = Cost(device, store, _shipped(device), at_once=_at_once(profile, device))
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for config, seconds in _finished(store, device):
        sizes, each = shipped.sizes(config.dataset), gflops(config)
        if sizes and each:
            seen[_kind(config)].append((count_passes(config, (), sizes).fit * each / 1e3, seconds))
    if not seen:
        return shipped
    every = [pair for pairs in seen.values() for pair in pairs]
    speeds = {name: _speed(pairs) for name, pairs in seen.items()}
    return Cost(device, store, _speed(every), speeds, len(every), shipped.at_once)


def _shipped(device: str) -> float:
    return TFLOPS.get(device, TFLOPS["H100"])


def _speed(pairs: Sequence[tuple[float, float]]) -> float:
    """TFLOP/s of (TFLOP, seconds) pairs."""
    return sum(work for work, _ in pairs) / sum(seconds for _, seconds in pairs)


def device_of(profile: Profile, hardware: str) -> str:
    """The GPU that a profile asks for by name, else this machine's, else the one that `hardware`
    names, else H100; CPU where there is to be none."""
    asked = " ".join(profile.slurm.gpu_requests().values())
    local = "" if profile.remote else _local_gpu()
    for text in (asked, local, hardware):
        for name in TFLOPS:
            if re.search(rf"\b{name}\b", text, re.IGNORECASE):
                return name
    needs_gpu = profile.remote and profile.gpus_per_run > 0
    return local or ("H100" if needs_gpu else "CPU")


def _at_once(profile: Profile, device: str) -> int | None:
    """Cores or GPUs: those of this machine, on Slurm those of the tasks that an array may run."""
    if profile.remote:
        tasks = profile.slurm.slurm_array_parallelism
        return tasks * profile.ranks if tasks and device != "CPU" else None
    if device == "CPU":
        return len(os.sched_getaffinity(0))
    here = len(list(Path("/proc/driver/nvidia/gpus").glob("*/information")))
    return min(here, profile.workers * profile.ranks) or None


def _local_gpu() -> str:
    """The name of this machine's first GPU as its driver tells it, '' for none."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"Model:\s*(.+)", file.read_text())
        if found:
            return found[1].strip()
    return ""


def _finished(store: Store, device: str) -> Iterator[tuple[RunConfig, float]]:
    """Some finished runs on such a device: config, and seconds of one device for their training."""
    taken: dict[str, int] = defaultdict(int)
    seen = set()
    for manifest in sorted(store.root.glob("sweeps/*/manifest.jsonl")):
        for row in filter(None, salvage(manifest, shapes.Manifest)):
            name = str(row["config"].get("backbone"))
            if row["id"] in seen or taken[name] >= SAMPLE or _is_open(row, store):
                continue
            seen.add(row["id"])
            try:
                result = read_json(store.run(row["id"]).result, shapes.Result) or {}
                env = read_json(store.run(row["id"]).env, shapes.Env) or {}
            except DamagedError:
                continue
            config = RunConfig.check(row["config"])
            if isinstance(config, list):  # of another version
                continue
            if _same(str(env.get("device")), device) and result.get("seconds"):
                share = env.get("threads", 1) if device == "CPU" else env.get("processes", 1)
                taken[name] += 1
                yield config, result["seconds"] * share


def _is_open(row: Mapping[str, Any], store: Store) -> bool:
    # How long `auto` trained without an attack is not in its config.
    return row["config"].get("schedule", {}).get("kind") == "auto" or not os.path.exists(
        store.run(row["id"]).result
    )


def _same(found: str, device: str) -> bool:
    """Whether env.json names this device; a CPU has no NVIDIA in its name."""
    if device == "CPU":
        return not re.search("NVIDIA|Tesla|GeForce|Quadro", found)
    return device.lower() in found.lower()

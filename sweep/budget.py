"""Hours that a plan's runs have taken, and hours left, from their speed so far or an estimate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.errors import counted
from sweep.estimate.cost import Cost, Sum, Work
from sweep.state import display
from sweep.state.plan import Plan
from sweep.state.status import State, Status


class Hours(NamedTuple):
    """What a sweep costs, in hours of `unit`."""

    spent: float
    left: float | None
    """None if a run that is left has no estimate."""
    unit: str
    basis: str
    """Where the estimate of `left` comes from."""
    finished: int
    """Runs that are done and had an estimate before anything ran."""
    planned: float
    """The estimate for the `finished` runs."""
    actual: float
    """What the `finished` runs took."""
    known: float = 0.0
    """Hours left for the runs that have an estimate."""
    unknown: int = 0
    """How many of the runs that are left have no estimate."""
    at_work: float = 0.0
    """GPUs, CPU cores or (in hours of runs) processes that its runs are using now."""

    @property
    def lines(self) -> list[str]:
        """Hours spent, hours left and the error of the estimate, as far as they are known."""
        parts = [f"{spelled(self.spent, self.unit)} spent"] if self.spent else []
        if self.known:
            rest = lasting(Sum(self.known, self.unknown), self.unit, " runs")
            parts.append(f"{rest} left, {self.basis}")
        elif self.unknown:
            parts.append("no estimate until one such run has been trained here")
        said = [", ".join(parts)] if parts else []
        if self.known and self.at_work and not self.unknown:
            what = {"GPU-hours": "GPU", "core-hours": "core"}.get(self.unit, "process")
            now = counted(max(1, round(self.at_work)), what)
            said.append(f"{spelled(self.known / self.at_work, 'hours')} to go, with {now} as now")
        if self.planned and self.actual:
            off = f"{self.actual / self.planned - 1:+.0%}"
            planned, actual = (spelled(n, self.unit) for n in (self.planned, self.actual))
            numbers = f"{planned} planned, {actual} spent"
            said.append(f"{counted(self.finished, 'finished run')}: {numbers} ({off})")
        return said


def short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def scaled(hours: float, unit: str) -> tuple[float, str]:
    """How to show `hours` of a unit such as 'GPU-hours': (factor, unit), with the largest of hours,
    minutes and seconds in which the number is at least 1."""
    for factor, name in ((1, "hours"), (60, "minutes")):
        if hours * factor >= 1:
            return factor, unit.replace("hours", name)
    return 3600, unit.replace("hours", "seconds")


def spelled(hours: float, unit: str) -> str:
    """'2.5 GPU-hours', '6.5 core-seconds'."""
    factor, name = scaled(hours, unit)
    return f"{short(hours * factor)} {name}"


def lasting(total: Sum, unit: str, what: str = "") -> str:
    """'about 2.5 GPU-hours and 3 of unknown length'. what: follows that count, such as ' runs'."""
    rest = f" and {total.unknown}{what} of unknown length" if total.unknown else ""
    return f"about {spelled(total.known, unit)}{rest}"


def works_of(seen: Plan, cost: Cost) -> list[Work]:
    """The work of every run of a plan, in its order."""
    return [cost.work(status.run.config, status.run.evals) for status in seen.statuses]


def rest(status: Status, work: Work) -> Work:
    """The part of a run's work that is left, as estimated: hours by phase."""
    if work.hours is None or status.state is State.DONE:
        return work._replace(hours=work.hours and 0.0, phases={})
    trained = "training" if _trained(status) else ""
    done = 0.0 if status.state is State.UNEVALUATED else status.share
    under_way = {*work.phases} - {"training"} if trained else {"training"}
    left = {
        name: hours * (1 - done * (name in under_way))
        for name, hours in work.phases.items()
        if name != trained
    }
    return work._replace(hours=sum(left.values()), phases=left)


def _trained(status: Status) -> bool:
    return status.state is State.UNEVALUATED or status.phase == "evaluate"


def hours(seen: Plan, cost: Cost, works: Sequence[Work] = ()) -> Hours:
    """Hours spent so far and left: GPU-hours, or core-hours if no run has used a GPU, or hours of
    runs while it is unknown how many cores a run uses. What is left follows from the speed of this
    plan's runs, of the same backbone if possible, else from the estimate. works: of every run, if
    they are known already."""
    works = works or works_of(seen, cost)
    used: dict[str, float] = defaultdict(float)
    made: dict[str, float] = defaultdict(float)
    on_gpus = any(status.gpu_seconds for status in seen.statuses)
    cores = cost.cores or 1
    seconds = {s.run.id: s.gpu_seconds if on_gpus else s.seconds * cores for s in seen.statuses}
    for status, work in zip(seen.statuses, works, strict=True):
        # What an unevaluated run has taken includes evaluations that this grid does not ask for.
        if work.petaflops and status.state is not State.UNEVALUATED:
            used[status.run.config.backbone] += seconds[status.run.id]
            made[status.run.config.backbone] += work.petaflops * _share(status, work)
    spent = sum(seconds.values()) / 3600
    if spent and on_gpus != cost.on_gpus:  # hours of a CPU core say nothing about those of a GPU
        works = [work._replace(hours=None) for work in works]
    shipped = cost.shipped
    planned = {
        run.id: shipped.hours(run.config, run.evals) or 0
        for run in seen.of({State.DONE})
        if on_gpus and cost.on_gpus
    }
    finished = [name for name, about in planned.items() if about]
    observed = "by the speed of its runs so far" if sum(made.values()) else cost.basis
    on_cpus = "core-hours" if cost.cores else "hours of runs"
    unit = ("GPU-hours" if on_gpus else on_cpus) if spent else cost.unit
    known, unknown = _left(seen, works, used, made)
    return Hours(
        spent,
        None if unknown else known,
        unit,
        observed,
        len(finished),
        sum(planned.values()),
        sum(seconds[name] for name in finished) / 3600,
        known,
        unknown,
        sum(_devices(status, on_gpus) * (1 if on_gpus else cores) for status in seen.statuses),
    )


def _devices(status: Status, on_gpus: bool) -> float:
    """GPUs that a run is using now, a fraction if runs share one; processes if not on_gpus."""
    if status.state is not State.RUNNING:
        return 0.0
    return status.gpu_seconds / status.seconds if on_gpus and status.seconds else 1.0


def _left(
    seen: Plan, works: Sequence[Work], used: Mapping[str, float], made: Mapping[str, float]
) -> tuple[float, int]:
    """(hours left for the runs with an estimate, number of runs without one). used, made: seconds
    and PFLOP so far, by backbone."""
    total, unknown, every = 0.0, 0, sum(made.values())
    for status, work in zip(seen.statuses, works, strict=True):
        if status.state is State.DONE:
            continue
        name, hours = status.run.config.backbone, work.hours
        if work.petaflops and every:
            pace = used[name] / made[name] if made[name] else sum(used.values()) / every
            hours = work.petaflops * pace / 3600
        if hours is None:
            unknown += 1
        else:
            total += hours * (1 - _share(status, work))
    return total, unknown


def _share(status: Status, work: Work) -> float:
    """Share of a run's operations that is done, in [0, 1]. Not the share of its epochs: AutoAttack
    takes several times as long as the training."""
    if status.state is State.DONE or not work.petaflops or work.training is None:
        return display.done_share(status)
    trained = work.training / work.petaflops
    if status.state is State.UNEVALUATED:  # its share is that of evaluations which are done
        return trained
    if status.phase == "evaluate":
        return trained + (1 - trained) * status.share
    return trained * status.share

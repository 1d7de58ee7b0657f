"""What is to be submitted, independent of the backend: an order makes its manifest and its jobs.

Orders of runs and of search trials have one interface, so the same code freezes, submits, records,
watches and stops both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from core.store.folders import Store, SweepDir
from slurm.profile import Profile
from sweep.grid import Run
from sweep.state import repair
from sweep.submit import frozen_code, submissions
from sweep.worker.run_job import RunJob

Behind = Mapping[str, Collection[str]]
"""Run id -> the jobs that must have ended before a job for the run may start."""


class Task(Protocol):
    """What a process does: a dataclass of plain values, such as RunJob."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self) -> dict[str, int]: ...

    def work(self) -> dict[str, int]: ...


class Share(NamedTuple):
    """The number of workers, and the CPU threads and GPUs for each; gpus may be a fraction."""

    workers: int
    threads: int | None
    gpus: float


@dataclass(frozen=True)
class Order(ABC):
    """Something to submit under one profile. A cluster runs it as numbered jobs, this machine by
    workers that share it."""

    sweep: SweepDir
    """The sweep in whose folder it is recorded and logged."""
    store: Store
    profile: Profile

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of runs or trials: more workers than that would have nothing to do."""

    @property
    @abstractmethod
    def jobs(self) -> int:
        """Number of jobs on a cluster."""

    @property
    @abstractmethod
    def code(self) -> frozen_code.Code:
        """The user's code that it needs."""

    @abstractmethod
    def parts(self) -> Sequence[Self]:
        """The order as parts that need one profile each: overrides for backbones, memory and
        dependencies differ."""

    @abstractmethod
    def split(self, jobs: int) -> tuple[Self, Self]:
        """(order of the first `jobs` jobs, order of the others)."""

    @abstractmethod
    def freeze(self) -> Path:
        """Write the manifest that its jobs read; returns its path."""

    @abstractmethod
    def span(self, numbers: range) -> dict[str, int]:
        """The fields `first`, `end` and `per` in the record of an array of these jobs, see
        pending.tasks."""

    @abstractmethod
    def job(self, manifest: Path, number: int, jobs: int) -> Task:
        """What job `number` of `jobs` on a cluster does."""

    @abstractmethod
    def worker(self, manifest: Path, number: int, share: Share) -> Task:
        """What worker `number` on this machine does."""


@dataclass(frozen=True)
class Runs(Order):
    """An order of runs, in the sequence in which they are to begin."""

    runs: Sequence[Run]
    behind: Behind = field(default_factory=dict)
    batches: int | None = None
    """For a rehearsal, see RunJob.batches."""

    @property
    def size(self) -> int:
        return len(self.runs)

    @property
    def jobs(self) -> int:
        return -(-len(self.runs) // self.profile.runs_per_job)

    @property
    def code(self) -> frozen_code.Code:
        return {pair for run in self.runs for pair in run.code}

    def parts(self) -> Sequence[Self]:
        groups: dict[tuple[str, float | None, frozenset[str]], list[Run]] = {}
        for run in self.runs:
            backbone = run.config.backbone if run.config.backbone in self.profile.overrides else ""
            memory = repair.read(self.store.run(run.id)).mem_gb
            # Grouped by parents' arrays, not by their tasks, which would make one array per run.
            behind = frozenset(job.partition("_")[0] for job in self.behind.get(run.id, ()))
            groups.setdefault((backbone, memory, behind), []).append(run)
        return [
            replace(self, profile=self._special(members, *key[:2]), runs=members)
            for key, members in groups.items()
        ]

    def _special(self, runs: Sequence[Run], backbone: str, memory: float | None) -> Profile:
        special = self.profile.for_backbone(backbone)
        changed: dict[str, Any] = {}
        if memory:
            changed["mem_gb"] = max(memory, special.slurm.mem_gb or 0)
        if jobs := {job for run in runs for job in self.behind.get(run.id, ())}:
            changed["slurm_additional_parameters"] = _after(special, jobs)
        slurm = special.slurm.model_copy(update=changed)
        return special.model_copy(update={"slurm": slurm})

    def split(self, jobs: int) -> tuple[Self, Self]:
        first = jobs * self.profile.runs_per_job
        return replace(self, runs=self.runs[:first]), replace(self, runs=self.runs[first:])

    def freeze(self) -> Path:
        return submissions.freeze_runs(self.runs, self.sweep, self.store)

    def span(self, numbers: range) -> dict[str, int]:
        per = self.profile.runs_per_job
        end = min(numbers.stop * per, len(self.runs))
        return {"first": numbers.start * per, "end": end, "per": per}

    def job(self, manifest: Path, number: int, jobs: int) -> RunJob:
        rows, together = self.span(range(number, number + 1)), self.profile.packs
        count = rows["end"] - rows["first"]
        return self._job(
            manifest,
            Share(jobs, self.profile.slurm.cpus_per_task, self.profile.gpus_per_run),
            first=rows["first"],
            count=count,
            gpus=self.profile.gpus_per_run / (count if together else 1),
            max_lost=self.profile.max_requeues + 3,
            together=together,
            alone=True,
            staging=self.profile.staging,
        )

    def worker(self, manifest: Path, number: int, share: Share) -> RunJob:
        return self._job(manifest, share, first=0, count=len(self.runs), batches=self.batches)

    def _job(self, manifest: Path, share: Share, **more: Any) -> RunJob:
        known = {
            "root": str(self.store.root),
            "sweep": self.sweep.path.name,
            "manifest": str(manifest),
            "tracking": self.profile.tracking,
            "threads": share.threads,
            "gpus": share.gpus,
            "compile": self.profile.compile,
        }
        return RunJob(**known | more)


def _after(profile: Profile, jobs: Collection[str]) -> dict[str, Any]:
    """The profile's additional sbatch options plus a dependency: no task begins before these jobs
    have ended."""
    more = profile.slurm.slurm_additional_parameters or {}
    own = [str(more["dependency"])] if "dependency" in more else []
    return {**more, "dependency": ",".join([*own, f"afterany:{':'.join(sorted(jobs))}"])}

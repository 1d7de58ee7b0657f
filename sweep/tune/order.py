"""What `sweep tune` submits: workers that share the trials of searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sweep.grid.search import Search
from sweep.submit import frozen_code, submissions
from sweep.submit.order import Order, Share
from sweep.tune import trial_job
from sweep.tune.trial_job import TuneJob


@dataclass(frozen=True)
class Trials(Order):
    """An order of trials that searches still lack."""

    searches: Sequence[Search]
    numbers: Mapping[str, Sequence[int]]
    """Id of a search -> numbers of the trials to do."""
    busy: int = 0
    """Workers that already work on them."""
    workers: int | None = None
    """Maximum number of workers at a time on a cluster; by default one per search."""

    @property
    def size(self) -> int:
        return sum(len(self.numbers[one.id]) for one in self.searches)

    @property
    def jobs(self) -> int:
        workers = len(self.searches) if self.workers is None else self.workers
        return max(0, min(workers, self.size) - self.busy)

    @property
    def code(self) -> frozen_code.Code:
        return {pair for one in self.searches for pair in one.config.code}

    def parts(self) -> Sequence[Self]:
        groups: dict[str, list[Search]] = {}
        for one in self.searches:
            name = one.config.backbone if one.config.backbone in self.profile.overrides else ""
            groups.setdefault(name, []).append(one)
        parts, busy = [], self.busy
        for name, members in groups.items():
            special = self.profile.for_backbone(name)
            part = replace(self, profile=special, searches=members, busy=busy)
            busy -= min(busy, replace(part, busy=0).jobs)
            parts.append(part)
        return parts

    def split(self, jobs: int) -> tuple[Self, Self]:
        first = replace(self, workers=jobs, busy=0)
        return first, replace(self, workers=self.jobs - jobs, busy=0)

    def freeze(self) -> Path:
        """Write a manifest with a row per search."""
        rows = (trial_job.manifest_row(one, self.numbers[one.id]) for one in self.searches)
        return submissions.write_manifest(self.sweep, rows)

    def span(self, numbers: range) -> dict[str, int]:
        return {"first": numbers.start, "end": numbers.stop, "per": 1}

    def job(self, manifest: Path, number: int, jobs: int) -> TuneJob:
        slurm, gpus = self.profile.slurm, self.profile.gpus_per_run
        share = Share(jobs, slurm.cpus_per_task, gpus)
        return replace(self.worker(manifest, number, share), staging=self.profile.staging)

    def worker(self, manifest: Path, number: int, share: Share) -> TuneJob:
        return TuneJob(
            root=str(self.store.root),
            sweep=str(self.sweep.path),
            manifest=str(manifest),
            first=0,
            count=len(self.searches),
            turn=number * len(self.searches) // share.workers,
            threads=share.threads,
            gpus=share.gpus,
            compile=self.profile.compile,
        )

"""Where submitted work runs: the interface of a backend. sweep.submit.backends finds one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Console

from core.store.folders import Store
from slurm.profile import Profile
from sweep.state.pending import Pending
from sweep.submit.checks import Check, torch_here
from sweep.submit.order import Order

if TYPE_CHECKING:  # 0.1 s, which only a launch has to wait for
    import submitit

    Job = submitit.Job[dict[str, int]]

Key = TypeVar("Key")
Ordered = TypeVar("Ordered", bound=Order)


@dataclass(frozen=True)
class Crew:
    """Workers of this machine by their numbers; `start` starts the one of a number."""

    jobs: list[Job]
    start: Callable[[int], Job]
    manifest: Path

    def stop(self, *, patience: float = 60.0) -> None:
        """Ask the workers to stop until they have, `patience` seconds at most; one that is still
        importing may miss the first times."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            running = [job for job in self.jobs if not job.done()]
            if not running:
                return
            for job in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(0.2)


@dataclass(frozen=True)
class Started(Generic[Ordered]):
    """What became of an order."""

    arrays: Mapping[str, int] = field(default_factory=dict)
    """Jobs that were queued: id of the array -> tasks."""
    left: Sequence[Ordered] = ()
    """What the limits of the cluster leave to a later submission."""
    cap: str = ""
    """The limit that did, '' if nothing is left."""
    crew: Crew | None = None
    """Workers of this machine, to be watched."""
    here: Callable[[Console], object] | None = None
    """What this process has to do itself, after its turn at submitting. Raises StoppedError."""


class Backend(ABC):
    """One way to run jobs. Holds nothing: records and profiles tell it what it works on."""

    queued: bool = False
    """Whether jobs wait in a queue of others and outlive the launch, which then returns."""

    @abstractmethod
    def start(self, order: Ordered) -> Started[Ordered]:
        """Submit as much of the order as the limits allow, in its order, and put it on record.
        Raises ClusterError if it is refused (what was submitted before that is on record), and
        ConfigError if the profile or the folder cannot be used."""

    @abstractmethod
    def script(self, order: Order) -> list[str]:
        """The exact commands or batch scripts that `start` would hand over; writes nothing. Raises
        as `start`."""

    def verdict(self, script: str, profile: Profile) -> str | None:
        """What the scheduler says of such a script, None if there is none to ask. Raises
        ClusterError if it would be refused."""
        return None

    def limited(self, profile: Profile, most: int) -> Profile:
        """The profile with `most` jobs or workers at the same time."""
        return profile

    def room(self, profile: Profile) -> int:
        """How many jobs it takes from us now, as far as it says; 0 for none."""
        return 1

    def states(self, promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
        """The same promises with what the scheduler says of their jobs now, and their ids if these
        were not known. Never raises: no answer is a state too, and keeps a promise alive."""
        return dict(promised)

    def stop(self, promised: Iterable[Pending]) -> None:
        """End these jobs, of which `states` has told; one that is over is no fault. Raises
        ClusterError if the scheduler refuses."""
        return

    def release(self, jobs: Iterable[str]) -> None:
        """Let jobs start that the scheduler holds back. Raises ClusterError."""
        return

    def checks(self, profile: Profile, store: Store, *, node: bool) -> Iterable[Check]:
        """What `sweep doctor` finds out of the place where runs would run; with `node`, by a short
        job, too. Submits nothing else."""
        yield torch_here()

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

if TYPE_CHECKING:  # 0.1 s to import; only a launch needs it
    import submitit

    Job = submitit.Job[dict[str, int]]

Key = TypeVar("Key")
Ordered = TypeVar("Ordered", bound=Order)


@dataclass(frozen=True)
class Crew:
    """Workers on this machine. jobs: by worker number. start: starts a worker, given its number."""

    jobs: list[Job]
    start: Callable[[int], Job]
    manifest: Path

    def stop(self, *, patience: float = 60.0) -> None:
        """Signal the workers until they have stopped, for at most `patience` seconds: a worker that
        is still importing may miss the first signals."""
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
    """Queued jobs: id of the array -> tasks."""
    left: Sequence[Ordered] = ()
    """What is left for a later submission because of the cluster's limits."""
    cap: str = ""
    """The limit that left it, '' if nothing is left."""
    crew: Crew | None = None
    """Workers on this machine, to be watched."""
    here: Callable[[Console], object] | None = None
    """Work for this process itself, to be called once the submission lock is released. Raises
    StoppedError."""


class Backend(ABC):
    """One way to run jobs. Stateless: all it needs is in records and profiles."""

    queued: bool = False
    """Whether jobs wait in a scheduler's queue, so that a launch does not wait for them."""

    @abstractmethod
    def start(self, order: Ordered) -> Started[Ordered]:
        """Submit as much of the order as the limits allow, from its beginning, and record it.
        Raises ClusterError if it is refused (parts submitted before that are recorded), and
        ConfigError if the profile or the folder cannot be used."""

    @abstractmethod
    def script(self, order: Order) -> list[str]:
        """The exact commands or batch scripts that `start` would submit; writes nothing. Raises as
        `start`."""

    def verdict(self, script: str, profile: Profile) -> str | None:
        """The scheduler's answer to such a script, or None if it cannot be asked. Raises
        ClusterError if the script would be refused."""
        return None

    def limited(self, profile: Profile, most: int) -> Profile:
        """The profile with at most `most` jobs or workers at the same time. Raises ConfigError if
        the backend has no such limit."""
        return profile

    def room(self, profile: Profile) -> int:
        """How many more jobs it accepts from us now, as far as it can be known."""
        return 1

    def states(self, promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
        """The same promises with the present states of their jobs, and with ids that were not known
        before. Never raises: if the scheduler does not answer, promises stay live."""
        return dict(promised)

    def stop(self, promised: Iterable[Pending]) -> None:
        """End these jobs, as returned by `states`; those that have ended already are ignored.
        Raises ClusterError if the scheduler refuses."""
        return

    def release(self, jobs: Iterable[str]) -> None:
        """Release jobs that the scheduler holds. Raises ClusterError."""
        return

    def checks(self, profile: Profile, store: Store, *, node: bool) -> Iterable[Check]:
        """Checks of `sweep doctor` on the place where runs would run. node: also submit a short job
        that checks a compute node. Submits nothing else."""
        yield torch_here()

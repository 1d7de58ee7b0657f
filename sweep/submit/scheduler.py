"""What the backends for plug-ins and for Ray share: schedulers in which no job can wait for another
one, and which decide themselves how many jobs run at the same time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from core.config import ConfigError, nearest
from core.errors import ClusterError, counted, first_line
from core.store.folders import Store
from slurm.cluster import JobState
from slurm.profile import Profile
from sweep.state.pending import Pending
from sweep.submit import local, submissions
from sweep.submit.backend import Backend, Key, Ordered, Started
from sweep.submit.checks import Check
from sweep.submit.order import Order


class Scheduler(Backend):
    """A backend that submits the parts of an order as they are."""

    queued = True
    executor: str

    @abstractmethod
    def send(self, part: Order, name: str, variables: Mapping[str, str]) -> dict[str, int]:
        """Submit a part under this name, and record it; returns array id -> tasks. variables: to
        add to the environment of its jobs. Raises as `start`."""

    @abstractmethod
    def told(self, items: Collection[Pending]) -> Mapping[str, JobState]:
        """Job id -> its present state. Raises anything if the scheduler does not answer."""

    @abstractmethod
    def verify(self, profile: Profile) -> str:
        """What to say if jobs can be submitted with this profile. Raises ClusterError,
        ConfigError."""

    @abstractmethod
    def text(self, part: Order, name: str) -> str:
        """What `send` would submit, as far as it is text. Raises as `start`."""

    def start(self, order: Ordered) -> Started[Ordered]:
        arrays, left = dict[str, int](), list[Ordered]()
        for part in order.parts():
            if part.profile.slurm.slurm_additional_parameters:  # a dependency on other jobs
                left.append(part)
                continue
            variables = local.setting(part.sweep, part.profile, order.code)
            arrays |= self.send(part, submissions.job_name(part.sweep), variables)
        return Started(arrays, left, "jobs of other runs have to end first" if left else "")

    def script(self, order: Order) -> list[str]:
        scripts = []
        for part in order.parts():
            jobs, runs = counted(part.jobs, "job"), counted(part.size, "run")
            what = f"# profile {part.profile.name}: {jobs} of executor {self.executor} for {runs}"
            text = self.text(part, f"epsweep-{part.sweep.path.name}")
            scripts.append(f"{what}\n{text}".strip())
        return scripts

    def limited(self, profile: Profile, most: int) -> Profile:
        raise ConfigError(
            f"profile {profile.name}: --max-parallel: does not apply to executor {self.executor}; "
            "set its own limit in the profile's parameters, if it has one"
        )

    def states(self, promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
        try:
            told = self.told(promised.values())
        except Exception as error:  # not installed here, or unreachable
            place = f"executor {self.executor}: "
            why = first_line(error).removeprefix(place)
            silent = JobState(reason=f"no answer from {place}{why}")
            told = {item.job: silent for item in promised.values()}
        return {key: replace(item, state=told[item.job]) for key, item in promised.items()}

    def checks(self, profile: Profile, store: Store, *, node: bool) -> Iterator[Check]:
        try:
            yield Check("executor", "ok", self.verify(profile))
        except (ClusterError, ConfigError) as error:
            yield Check("executor", "fail", str(error))


def require_known(profile: Profile, parameters: Collection[str]) -> None:
    """Raises ConfigError if the profile sets other parameters than these."""
    for key in profile.parameters:
        if key not in parameters:
            place = f"profile {profile.name}: parameters: {key}"
            raise ConfigError(f"{place}: unknown key{nearest(key, parameters)}")

"""What a retry changes: one policy per class of failure, recorded in the run's folder.

Out of GPU memory: half the images per forward pass, at the same effective batch, unless the config
fixes the number of images per BatchNorm statistic. Out of host memory: 1.5 times as much. Any other
class: nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

from core.config import ConfigError, nearest
from core.data.digests import mark, recorded
from core.errors import DamagedError, counted
from core.options import Options
from core.store import shapes
from core.store.folders import RunDir
from core.store.json_files import read_json, write_json
from slurm.profile import Profile
from sweep.state.plan import State, Status
from sweep.state.triage import FAILURES, PAUSES

MORE_MEMORY = 1.5
LIMIT = 3
"""Maximum number of retries of one run for one class of failure."""
BOTH_MEMORIES = {"oom", "memory"}


@dataclass(frozen=True)
class Repair:
    """What has been changed for a run so far. retries: class of failure -> how many so far."""

    micro_batch: int | None = None
    mem_gb: float | None = None
    retries: Mapping[str, int] = field(default_factory=dict)
    answers: str = ""
    """The failure it responds to: if the retry could not be submitted (a full queue), the next one
    changes nothing further."""

    replaces: str = ""
    """Mark of the recorded inputs of a stale run, which is trained anew; see
    core.data.digests.mark."""

    def applied(self, options: Options) -> Options:
        """`options` with the repair applied."""
        options = replace(options, replaces=self.replaces)
        if self.micro_batch is None:
            return options
        return replace(options, micro_batch=self.micro_batch, eval_batch=self.micro_batch)


FIELDS = frozenset(item.name for item in fields(Repair))


def read(run: RunDir) -> Repair:
    """The recorded repair of a run; an empty one if nothing was changed."""
    try:
        known = read_json(run.repair, shapes.Repair) or {}
    except DamagedError:  # reported as the run's state, damaged
        known = {}
    return Repair(**{name: value for name, value in known.items() if name in FIELDS})


def classes(asked: str | None) -> set[str] | None:
    """The classes that `--failed` selects ('oom': GPU and host memory), or None for all.

    Raises ConfigError for an unknown class.
    """
    if asked is None:
        return None
    if asked not in FAILURES | PAUSES:
        raise ConfigError(f"--failed {asked}: unknown class{nearest(asked, FAILURES | PAUSES)}")
    return BOTH_MEMORIES if asked == "oom" else {asked}


def plan(status: Status, run: RunDir, profile: Profile) -> Repair | str:
    """The repair to try next, or the reason why the run is not retried."""
    before = read(run)
    if status.state is State.STALE:
        return replace(before, replaces=mark(recorded(run)))
    if status.state is not State.FAILED:
        return before
    failure = f"attempt {status.attempts}, job {status.job}"
    if before.answers == failure:
        return before
    kind = status.kind or "bug"
    tried = before.retries.get(kind, 0)
    if tried >= LIMIT:
        return f"failed again after {counted(tried, 'retry')}"
    retries = {**before.retries, kind: tried + 1}
    after = replace(before, retries=retries, answers=failure)
    profile = profile.for_backbone(status.run.config.backbone)
    if kind == "oom" and not status.run.config.batchnorm_images:
        batch = before.micro_batch or -(-status.run.config.batch // profile.ranks)
        if batch == 1:
            return "out of GPU memory with one image at a time"
        return replace(after, micro_batch=batch // 2)
    memory = max(before.mem_gb or 0, profile.mem_gb or 0)
    if kind == "memory" and memory:
        return replace(after, mem_gb=round(memory * MORE_MEMORY, 3))
    return after


def keep(repair: Repair, run: RunDir) -> None:
    """Record a repair in the run's folder; the run is executed with it from now on."""
    if repair != Repair():
        write_json(run.repair, asdict(repair))

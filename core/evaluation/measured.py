"""What the `measure` function of an evaluation receives and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from core.data.splits import Split
from core.machine.team import ALONE, Team
from core.store.files import Write, write_atomic
from core.store.records import ResultRow
from core.store.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where and how a process measures. All processes of a team call `measure`: each evaluates
    `team.mine` of the images, and all return the joint result (`team.gather`)."""

    batch: int
    """Images per forward; after torch.OutOfMemoryError, `measure` is called again with half."""
    device: torch.device
    part: Path
    """File for partial results of this process. Its name has the rank and the size of the team,
    since another size splits the images differently. Removed when the evaluation is complete."""
    held_out: Split | None = None
    """The validation split, for kinds that learn from images other than those evaluated."""
    team: Team = ALONE
    write: Write = write_atomic
    """How to write `part`."""
    progress: Callable[[int], None] = lambda done: None
    """Call it with the number of finished images, of the whole team."""
    remark: Callable[[str], None] = lambda text: None
    """Call it with a line for the log and the attempt's record."""

    @property
    def means(self) -> dict[str, Any]:
        """Keyword arguments that every search takes."""
        return {"batch": self.batch, "device": self.device, "team": self.team}

    def snapshot(self, name: str = "") -> Snapshot:
        """A file for the state of a long search; `name` distinguishes several of one evaluation."""
        return Snapshot(self.part.with_suffix(f".{name}.part") if name else self.part, self.write)


@dataclass
class Measured:
    """Result of an evaluation, stored as evals/<id>.json and, for `arrays`, evals/<id>.npz."""

    rows: Sequence[ResultRow]
    """Counts of correctly classified images; [] for a kind that measures no accuracy."""
    arrays: Mapping[str, NDArray[Any]]
    """Name -> integers or floats [n, ...], one entry per image in the order of the split. `index`
    and `label` are added by the caller."""
    expected: float | None = None
    """Expected accuracy over all strengths, in [0, 1]; None if the kind has none."""
    forwards: int = 0
    backwards: int = 0
    """Costs in images."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further results by name, which tables show unchanged (an AUROC, a median distance)."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the JSON record, plain data."""

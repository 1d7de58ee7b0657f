"""What a kind of evaluation is given to work with, and what it gives back."""

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
    """Where and how one process measures. All processes of a team measure together: each takes
    `team.mine` of the images, and all return the whole (`team.gather`)."""

    batch: int
    """Images at once; a kind that raises torch.OutOfMemoryError is called again with half."""
    device: torch.device
    part: Path
    """Where this process may keep what it knows so far. The name tells the rank and the size of
    the team: another size splits the images differently. Removed once the evaluation is whole."""
    held_out: Split | None = None
    """The validation split, for kinds that learn from images beside the judged ones."""
    team: Team = ALONE
    write: Write = write_atomic
    """How `part` is written."""
    progress: Callable[[int], None] = lambda done: None
    """Takes the number of images that are done, of the whole team."""
    remark: Callable[[str], None] = lambda text: None
    """Takes a line for the log and the record of the attempt."""

    @property
    def means(self) -> dict[str, Any]:
        """The keywords with which every search is told how it runs."""
        return {"batch": self.batch, "device": self.device, "team": self.team}

    def snapshot(self, name: str = "") -> Snapshot:
        """The state of a long search on disk; `name` tells several of one evaluation apart."""
        return Snapshot(self.part.with_suffix(f".{name}.part") if name else self.part, self.write)


@dataclass
class Measured:
    """What an evaluation found: the body of evals/<id>.json, and evals/<id>.npz."""

    rows: Sequence[ResultRow]
    """Counts of right images; [] for a kind that measures no accuracy."""
    arrays: Mapping[str, NDArray[Any]]
    """Name -> integers or floats [n, ...], one entry per image in the order of the split. `index`
    and `label` are added."""
    expected: float | None = None
    """Expected accuracy over all strengths; None if there is none."""
    forwards: int = 0
    backwards: int = 0
    """Costs, counted in images."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further results by name, which tables show as they are (an AUROC, a median distance)."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the record: plain data."""

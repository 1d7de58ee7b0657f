"""Where and how a run executes, as a profile sets it; not part of the run's identity.

Torch-free, so that planning and submission can create it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["auto", "online", "offline", "none"]
"""How W&B tracks runs; 'auto' means online if the user is logged in, else offline."""
Compile = Literal["none", "default", "cuda_graphs"]
"""How training calls the model, see core.training.compiling."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a run executes. Results depend on it by rounding only, except that
    `micro_batch` matters to networks with BatchNorm (each epoch's row records it) or dropout
    (other masks)."""

    tracking: Mode = "auto"
    group: str | None = None
    """Group of the run in W&B: the name of the sweep."""
    micro_batch: int | None = None
    """Images per forward; None means as many as fit in memory, see core.training.microbatch."""
    compile: Compile = "none"
    """How training calls the model."""
    eval_batch: int = 256
    stage: Path | None = None
    """A folder on the node's own disk to copy the prepared data to."""
    images: int | None = None
    """Use only the first images of every split; accuracies are then meaningless."""
    rehearsal: bool = False
    """Accept miniatures of datasets, too, and record how much memory a step needs."""
    replaces: str = ""
    """Mark (digests.mark) of inputs that have changed since: a run that has recorded them starts
    over from the current ones."""

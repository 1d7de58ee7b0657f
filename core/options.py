"""Where and how a run executes, from a profile to the trainer: no part of what the run is.

Torch-free, so that whoever plans or sends a run can say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["auto", "online", "offline", "none"]
"""Of W&B; auto is online if somebody is logged in."""
Compile = Literal["none", "default", "cuda_graphs"]
"""How training calls the model, see core.training.compiling."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a run executes. Results follow it up to rounding alone, but for `micro_batch`
    in networks with BatchNorm (each epoch's row records it) or with dropout (other masks)."""

    tracking: Mode = "auto"
    group: str | None = None
    """Name of the sweep, for W&B."""
    micro_batch: int | None = None
    """Images per forward; None is as many as fit, see core.training.microbatch."""
    compile: Compile = "none"
    """How training calls the model."""
    eval_batch: int = 256
    stage: Path | None = None
    """A folder on the node's own disk to copy the prepared data to."""
    images: int | None = None
    """Cut every split to its first images; then the numbers mean nothing."""
    rehearsal: bool = False
    """Take miniatures of datasets too, and note what a step needs in memory."""
    replaces: str = ""
    """The recorded inputs (digests.mark) in whose place the run is made again from today's."""

"""Whether runs fit into a GPU: an estimate from what a rehearsed training step kept in memory.

Weights, gradients and optimiser state count once; what autograd saves counts for each image. The
margin for the allocator and work buffers is a rule of thumb, so this is only an estimate.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from core.sheet import Sheet
from core.store.folders import Store
from core.store.json_files import read_json
from slurm.profile import Profile
from sweep.grid import Run

MARGIN = 1.15
"""Factor for the allocator, the libraries' work buffers and gradients in flight."""
CONTEXT_GB = 0.8
"""GPU memory that a process takes before its first tensor."""


@dataclass(frozen=True)
class Need:
    """Memory that a training step keeps, in bytes: fixed, and for each image."""

    fixed: float
    per_image: float

    def gb(self, images: int) -> float:
        """Estimated memory, in GB, of a step on this many images at once."""
        return MARGIN * (self.fixed + images * self.per_image) / 1e9 + CONTEXT_GB

    def most(self, images: int, memory_gb: float) -> int:
        """How many of `images` fit at once, halved as a run halves its micro-batch; 0 if not even
        one fits."""
        while images > 1 and self.gb(images) > memory_gb:
            images = 1 << (images - 1).bit_length() - 1
        return images if self.gb(images) <= memory_gb else 0


@dataclass(frozen=True)
class Fit:
    """A backbone's most demanding training step, and the GPU of its profile."""

    backbone: str
    need: Need
    images: int
    """Images of a batch per GPU."""
    memory_gb: float | None
    """The GPU's memory; None if the profile does not state it."""
    is_fixed: bool = False
    """Whether the config fixes that number, for BatchNorm."""

    @property
    def is_hopeless(self) -> bool:
        """Whether no micro-batch fits. If a smaller one would fit, the run takes it by itself."""
        return bool(self.verdict) and (self.is_fixed or not self._most)

    @property
    def _most(self) -> int:
        return self.need.most(self.images, self.memory_gb or 0)

    @property
    def verdict(self) -> str:
        """What does not fit; '' if all fits or the GPU's memory is unknown."""
        if self.memory_gb is None or self.need.gb(self.images) <= self.memory_gb:
            return ""
        if not self._most:
            return f"not even one image fits into {self.memory_gb:g} GB"
        text = f"more than {self.memory_gb:g} GB; micro-batches of {self._most} would fit"
        return f"{text}, batchnorm_images is {self.images}" if self.is_fixed else text


def measured(pairs: Sequence[tuple[Run, Run]], rehearsal: Store, profile: Profile) -> list[Fit]:
    """The largest need of each backbone. pairs: each run with its miniature."""
    largest: dict[str, Fit] = {}
    for run, small in pairs:
        found = read_json(rehearsal.run(small.id).memory)
        if not found or not found["per_image"]:
            continue
        name, own = run.config.backbone, profile.for_backbone(run.config.backbone)
        fixed = run.config.batchnorm_images
        images = fixed or -(-run.config.batch // own.ranks)
        fit = Fit(name, Need(**found), images, own.gpu_memory_gb, is_fixed=bool(fixed))
        if name not in largest or fit.need.gb(images) > largest[name].need.gb(largest[name].images):
            largest[name] = fit
    return list(largest.values())


def table(fits: Sequence[Fit], profile: Profile) -> Sheet:
    """One row per backbone, for a terminal."""
    columns = ("fixed GB", "MB per image", "batch", "about GB", "GPU GB")
    shown = Sheet("backbone", *(f">{name}" for name in columns), "", title_justify="left")
    shown.title = (
        f"Estimated GPU memory if a GPU's whole batch is taken at once (profile {profile.name}), "
        "an upper estimate: a run that lacks memory goes on with smaller micro-batches"
    )
    for fit in fits:
        need, gpu = fit.need, f"{fit.memory_gb:g}" if fit.memory_gb else "?"
        numbers = (f"{need.fixed / 1e9:.2f}", f"{need.per_image / 1e6:.0f}", str(fit.images))
        about = f"{need.gb(fit.images):.1f}"
        shown.add_row(fit.backbone, *numbers, about, gpu, Text(fit.verdict, style="yellow"))
    return shown

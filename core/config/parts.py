"""The parts of a run's config, each a mapping: optimiser, objective, attack, adapters, ...

Each field's meaning, range and neutral default; core.config.run combines the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from core.config import own_code
from core.config.knobs import Knobs
from core.config.strength import AnyStrength
from core.config.values import Count, Number, Part, nearest

Protocol = Literal["full", "linear", "lora"]
"""Which weights are trained: all, the head, or the head and adapters."""


class Trains(NamedTuple):
    """What a protocol trains besides the head."""

    backbone: bool
    adapters: bool


TRAINS: Mapping[Protocol, Trains] = {
    "full": Trains(backbone=True, adapters=False),
    "linear": Trains(backbone=False, adapters=False),
    "lora": Trains(backbone=False, adapters=True),
}
Precision = Literal["fp32", "bf16"]
"""Precision of forwards and backwards in training."""
Beta = Annotated[Number, Field(ge=0, lt=1)]


class Optim(Part):
    """AdamW and its learning rate schedule."""

    lr: Annotated[Number, Field(gt=0)] = 1e-4
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-2
    head_lr: Annotated[Number, Field(gt=0)] | None = None
    """Learning rate of the head; None means `lr`."""
    head_weight_decay: Annotated[Number, Field(ge=0)] | None = None
    """Weight decay of the head; None means `weight_decay`."""
    no_decay: Literal["vectors", "library"] = "vectors"
    """Weights without decay. `vectors`: those of at most one dimension (biases, norms, layer
    scales). `library`: also those that timm lists for the network (position embeddings, tables of
    relative position biases, class tokens)."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates per step of AdamW's averages of the gradient and of its square."""
    rate: Literal["cosine", "constant"] = "cosine"
    """The learning rate after a linear warm-up: falls to 0 along a cosine, or stays constant."""
    warmup: Annotated[Number, Field(ge=0, lt=1)] = 0.05
    """Fraction of all optimiser steps spent warming up."""
    clip: Annotated[Number, Field(ge=0)] = 0.0
    """Gradients are clipped to this norm; 0 means no clipping."""
    ema: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Decay per step of a moving average of the weights, which is then evaluated and stored in
    place of the weights; 0 means no average."""


OBJECTIVES = ("at", "trades", "autolora")
ADAPTING = ("autolora",)


def _objective(kind: str) -> str:
    if kind not in OBJECTIVES and not own_code.is_own(kind):
        raise ValueError(f"unknown objective '{kind}'{nearest(kind, OBJECTIVES)}")
    return kind


class Objective(Part):
    """What training minimises: `at` is cross-entropy on attacked images (Madry et al. 2018),
    `trades` (Zhang et al. 2019), or `autolora` (Xu et al. 2024), which gives the network adapters
    as `lora` describes while it is trained."""

    kind: Annotated[str, AfterValidator(_objective)] = "at"
    """One of `OBJECTIVES`, or the import path of a class of the user's: 'my_pkg.mod:Loss'."""
    beta: Annotated[Number, Field(gt=0)] = 1.0
    """For `trades`: weight of the divergence between clean and attacked predictions."""
    knobs: Knobs = ()
    """Keyword arguments for a class of the user's: in a grid, all keys next to `kind`."""

    @property
    def adapts(self) -> bool:
        """Whether it gives the network adapters while it is trained."""
        return self.kind in ADAPTING

    @model_validator(mode="before")
    @classmethod
    def _own(cls, data: Any) -> Any:
        return own_code.with_knobs(data) if isinstance(data, Mapping) else data


class Attack(Part):
    """The training attack: APGD on the cross-entropy (paper: 7 steps)."""

    steps: Count = 7


class Validation(Part):
    """What is measured after every epoch on the validation split."""

    steps: Count = 10
    images: Count | None = None
    """Adversarial accuracy uses only the first images of the split; clean accuracy uses all."""
    epsilon: AnyStrength | None = None
    """Strength at which adversarial accuracy is measured; None means the run's eps_g."""


class Augment(Part):
    """Training augmentation, drawn per image from (seed, epoch, index)."""

    flip: bool = True
    jitter: Annotated[Number, Field(ge=0, lt=1)] = 0.25
    """Brightness, contrast and saturation are each scaled by a factor drawn uniformly from
    [1 - jitter, 1 + jitter]."""
    rotate: Annotated[Number, Field(ge=0, le=180)] = 2.0
    """Largest rotation in degrees."""
    shift: Annotated[int, Field(strict=True, ge=0)] = 0
    """Largest shift in pixels along each axis; what leaves the image enters at the other side."""


class Lora(Part):
    """Adapters of `protocol: lora` and of AutoLoRa: W + alpha / rank * B A, through peft."""

    rank: Count = 8
    alpha: Annotated[Number, Field(gt=0)] = 16.0
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    targets: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Modules to adapt, by the ends of their names; () means those of the backbone's registry
    entry."""

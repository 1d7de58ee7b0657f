"""The parts of a run, each one mapping in its config: optimiser, objective, attack, adapters, ...

What a field means, its range and its neutral default; core.config.run puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from core.config import own_code
from core.config.knobs import Knobs
from core.config.strength import AnyStrength
from core.config.values import Count, Number, Part, nearest

Beta = Annotated[Number, Field(ge=0, lt=1)]


class Optim(Part):
    """AdamW, and its learning rate after a linear warm-up."""

    lr: Annotated[Number, Field(gt=0)] = 1e-4
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-2
    head_lr: Annotated[Number, Field(gt=0)] | None = None
    """Learning rate of the head; None is that of the backbone."""
    head_weight_decay: Annotated[Number, Field(ge=0)] | None = None
    no_decay: Literal["vectors", "library"] = "vectors"
    """What never decays: `vectors`, weights of at most one dimension (biases, norms, layer scales);
    `library`, those and what timm lists for the network (position embeddings, tables of relative
    position biases, class tokens), which decay otherwise."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decays per step of AdamW's averages of the gradient and of its square."""
    rate: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up: falls to 0 along a cosine, or stays."""
    warmup: Annotated[Number, Field(ge=0, lt=1)] = 0.05
    """Fraction of all optimiser steps spent warming up."""
    clip: Annotated[Number, Field(ge=0)] = 0.0
    """Largest gradient norm; 0 leaves gradients alone."""
    ema: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Decay per step of a moving average of the weights, which is then what is evaluated and
    kept; 0 is none."""


OBJECTIVES = ("at", "trades")


def _objective(kind: str) -> str:
    if kind not in OBJECTIVES and not own_code.is_own(kind):
        raise ValueError(f"unknown objective '{kind}'{nearest(kind, OBJECTIVES)}")
    return kind


class Objective(Part):
    """What training minimises: `at`, cross-entropy on attacked images, or `trades`."""

    kind: Annotated[str, AfterValidator(_objective)] = "at"
    """One of `OBJECTIVES`, or a class of the user's: 'my_pkg.mod:Loss'."""
    beta: Annotated[Number, Field(gt=0)] = 1.0
    """TRADES: weight of the divergence between clean and attacked predictions."""
    knobs: Knobs = ()
    """Keyword arguments of an own class: whatever stands beside its `kind`."""

    @model_validator(mode="before")
    @classmethod
    def _own(cls, data: Any) -> Any:
        return own_code.with_knobs(data) if isinstance(data, Mapping) else data


class Attack(Part):
    """The attack that makes training examples: APGD, cross-entropy (paper: 7 steps)."""

    steps: Count = 7


class Validation(Part):
    """What is measured after every epoch on the validation split."""

    steps: Count = 10
    images: Count | None = None
    """Images of the adversarial measurement (the first ones); clean accuracy uses them all."""
    epsilon: AnyStrength | None = None
    """Strength of the adversarial measurement; by default the run's own eps_g."""


class Augment(Part):
    """Training augmentation, drawn per image from (seed, epoch, index)."""

    flip: bool = True
    jitter: Annotated[Number, Field(ge=0, lt=1)] = 0.25
    """Brightness, contrast and saturation are each scaled by U[1 - jitter, 1 + jitter]."""
    rotate: Annotated[Number, Field(ge=0, le=180)] = 2.0
    """Largest rotation in degrees."""
    shift: Annotated[int, Field(strict=True, ge=0)] = 0
    """Largest shift in pixels, in both directions (wraps round)."""


class Lora(Part):
    """Adapters of `protocol: lora`: W + alpha / rank * B A, through peft."""

    rank: Count = 8
    alpha: Annotated[Number, Field(gt=0)] = 16.0
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    targets: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Modules to adapt, by the end of their names; by default those of the backbone's registry
    entry."""

"""What one evaluation of a trained model is: `EvalConfig`, a child of a run with an id of its own.

Torch-free, like the config of a run.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from core.config.values import (
    ConfigError,
    Count,
    Norm,
    Number,
    Part,
    Strength,
    digest,
    parse_strengths,
    problems,
    show_strength,
)

LEAST_CLASSES = 4
"""The loss of targeted APGD divides by a difference between the largest and the fourth logit."""


def ensemble_problem(norm: str, size: int, classes: int | None = None) -> str | None:
    """Why AutoAttack cannot attack square images of this size, or a task with this many classes;
    None if it can, or if nothing is known against it.
    """
    if classes is not None and classes < LEAST_CLASSES:
        return (
            f"attack autoattack needs at least {LEAST_CLASSES} classes, for its targeted attacks, "
            f"got {classes}; use apgd-ce"
        )
    if norm != "linf" and not _tiled(size):
        near = min(filter(_tiled, range(8, size + 9)), key=lambda other: abs(other - size))
        return (
            f"attack autoattack, norm {norm}: its Square attack cannot take images of {size} "
            f"pixels; nearest image_size that it can: {near}"
        )
    return None


def _tiled(size: int) -> bool:
    """Whether the tiles with which Square begins in l2 and l1, a fifth of the image each, end
    within it; of 12, 14, 18, 19 and 24 pixels they do not."""
    tile = size // 5
    start = (size - 5 * tile) // 2
    return tile <= 1 or start + size // tile * tile <= size


class EvalConfig(Part):
    """One evaluation of a trained model; a child of a run with an id of its own."""

    attack: Literal["apgd-ce", "autoattack", "corruptions"] = "apgd-ce"
    """`autoattack`: the standard ensemble on APGD's survivors, at every strength; takes long.
    `corruptions`: eleven common ones instead of an attack; only the split's fields and the next two
    belong to it."""
    severity: Annotated[Count, Field(le=5)] = 3
    """How strong the corruptions are."""
    per_image: Literal["one", "all"] = "one"
    """One type of corruption per image, in consecutive blocks, or all on every image."""
    norm: Norm = "linf"
    steps: Count = 10
    epsilons: Annotated[tuple[Strength, ...], BeforeValidator(parse_strengths)] = tuple(
        Fraction(i, 255) for i in range(17)
    )
    """Strengths at which accuracy is measured, ascending from 0."""
    prior: tuple[Annotated[Number, Field(ge=0)], ...] | None = None
    """Weights of the strengths in expected accuracy, of which tables take those up to eps_g; None
    is uniform in eps."""
    split: Literal["test", "val"] = "test"
    images: Count | None = None
    """Only the first images of the split; None means all."""
    mode: Literal["exact", "fast"] = "exact"
    """`exact` for tables; `fast` costs a sixth of it plus an audit of up to 300 images, and
    falls back to `exact` if it is wrong on more than 1 % of those that can be."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        """Nothing is asked of an attack that it does not have."""
        corrupts = self.attack == "corruptions"
        others = ("norm", "steps", "epsilons", "prior", "mode")
        foreign = others if corrupts else ("severity", "per_image")
        plain = {name: type(self).model_fields[name].default for name in foreign}
        if corrupts:
            plain["epsilons"] = (Fraction(0),)
            if "epsilons" not in self.model_fields_set:
                object.__setattr__(self, "epsilons", plain["epsilons"])
        for name, value in plain.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}: attack {self.attack} has none")
        return self

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        pairs = zip(self.epsilons, self.epsilons[1:], strict=False)
        if not self.epsilons or self.epsilons[0] != 0 or any(a >= b for a, b in pairs):
            given = ", ".join(show_strength(epsilon, self.norm) for epsilon in self.epsilons)
            raise ValueError(
                "epsilons: expected ascending strengths that begin with 0, "
                f"got {reprlib.repr(given) if given else 'none'}"
            )
        if self.norm != "linf" and "epsilons" not in self.model_fields_set:
            raise ValueError(f"epsilons: norm {self.norm} has no default, expected strengths")
        if self.attack == "autoattack" and self.mode == "fast":
            raise ValueError("mode: fast goes with attack apgd-ce, got autoattack")
        count = len(self.epsilons)
        if self.prior is not None and (len(self.prior) != count or not any(self.prior)):
            raise ValueError(
                f"prior: expected {count} weights, one per strength and not all 0, "
                f"got {len(self.prior)}"
            )
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str = "evals") -> EvalConfig:
        """Validate a mapping; every problem at once. Raises ConfigError."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            lines = (f"{where}: {line}" for _, line in problems(error, cls))
            raise ConfigError(*lines) from None

    @property
    def id(self) -> str:
        """`<attack><steps>-<norm>-<split>-<16 hex>`; of corruptions `corruptions<severity>-...`,
        without a norm."""
        if self.attack == "corruptions":
            return f"{self.name.replace('-', '')}-{self.split}-{digest(self)}"
        attack = self.attack.replace("-", "_")
        return f"{attack}{self.steps}-{self.norm}-{self.split}-{digest(self)}"

    @property
    def name(self) -> str:
        """What its rows call it: 'apgd-ce-10', 'corruptions-3'."""
        return f"{self.attack}-{self.severity if self.attack == 'corruptions' else self.steps}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `EvalConfig.parse` takes it back."""
        return self.model_dump(mode="json")

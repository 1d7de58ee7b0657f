"""What one evaluation of a trained model is: an `EvalConfig`, a child of a run with its own id.

Each kind of evaluation is a subclass, which also says what it needs, what it costs and how a dry
run shrinks it: ours are in core.config.evaluation_kinds. A user-defined kind is a subclass with a
method `measure(model, split, context)`, named by its import path. Torch-free, like the config of a
run.
"""

from __future__ import annotations

import importlib.util
import reprlib
from abc import abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.config import own_code
from core.config.knobs import Code
from core.config.strength import Norm, Strength, Strengths, in_pixels
from core.config.values import Count, Number, Part, delta_of, hashed, safe_name
from core.errors import ConfigError

USUAL = "apgd-ce"
"""The kind of an evaluation without the key `attack`."""
Problems = list[tuple[str, str]]
"""What is wrong with a mapping, as (dotted key, one-line message) pairs."""


class EvalConfig(Part):
    """Base of all kinds. `EvalConfig.parse` returns an instance of the one that `attack` names."""

    attack: str
    split: Literal["test", "val"] = "test"
    images: Count | None = None
    """Only the first images of the split; None means all."""
    code: Code = ()
    """Digest of the source of a user-defined kind; () for built-in kinds."""

    package: ClassVar[tuple[str, str] | None] = None
    """An optional package that the kind needs: its import name, and the command to install it."""
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    """Metrics for tables: 'accuracy' over the kind's rows, or names of `Measured.metrics`."""
    takes_floats: ClassVar[bool] = True
    """Whether it can judge images that are given as floats in place of uint8."""
    recorded: ClassVar[Mapping[str, Any]] = {}
    """Hashed into the id besides the kind and the fields that differ from their defaults."""

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str = "evals") -> EvalConfig:
        """The evaluation that a mapping describes. Raises ConfigError with all problems at once.

        >>> EvalConfig.parse({"attack": "apgd-ce", "steps": 20}).name
        'apgd-ce-20'
        """
        from core.config.evaluation_kinds import understood  # which imports this module

        found = understood(data)
        if isinstance(found, EvalConfig):
            return found
        raise ConfigError(*(f"{where}: {line}" for _, line in found))

    @property
    def name(self) -> str:
        """Its name in result rows: 'apgd-ce-10', 'corruptions-3'; a user-defined kind's class."""
        return own_code.label(self.attack)

    @property
    def stem(self) -> str:
        """The part of its id before the split."""
        return safe_name(self.name.replace("-", ""))

    @property
    def id(self) -> str:
        """`<stem>-<split>-<16 hex>`: `apgd_ce10-linf-test-...`, `corruptions3-test-...`."""
        named = {} if self.attack == USUAL else {"attack": self.attack}
        return f"{self.stem}-{self.split}-{hashed(named | {**self.recorded} | delta_of(self))}"

    @abstractmethod
    def passes(self, images: int, survival: float) -> float:
        """Cost on a split of `images` images, as forwards of one image; a backward to the image
        counts as one forward. survival: expected share of (image, strength) pairs that are attacked
        to the last step."""

    def shrunk(self) -> EvalConfig:
        """A miniature of it for dry runs, which runs the same code in a moment."""
        return self.model_copy(update={"images": 1})

    def problem(self, size: int, classes: int | None = None) -> str | None:
        """Why it cannot take square images of `size` pixels, or a task with `classes` classes
        (None: unknown); None if no reason is known."""
        return None

    @property
    def fewest(self) -> Mapping[str, int]:
        """Split -> number of images that it must have at least."""
        return {}

    def too_few(self, sizes: Mapping[str, int]) -> str | None:
        """Why splits of these sizes (split -> number of images) do not suffice; None if they do, or
        if they are unknown."""
        for split, least in self.fewest.items():
            if sizes.get(split, least) < least:
                has = f"the {split} split has {sizes[split]}"
                return f"attack {self.attack} as asked needs at least {least} images, {has}"
        return None

    @property
    def need(self) -> str:
        """One line that names the optional package it needs; '' if it needs none."""
        if self.package is None:
            return ""
        module, install = self.package
        return f"attack {self.attack} needs the package {module}: {install}"

    def lacking(self) -> str | None:
        """`need`, if this machine lacks the package."""
        if self.package is None:
            return None
        try:
            there = importlib.util.find_spec(self.package[0]) is not None
        except ValueError:  # it is imported already, and has no __spec__
            there = True
        return None if there else self.need

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `EvalConfig.parse` makes an equal evaluation."""
        data = self.model_dump(mode="json", exclude={"code"})
        own = {"code": dict(self.code), "metrics": [*self.metrics]} if self.code else {}
        return data | own


class AtStrengths(EvalConfig):
    """Accuracy under an attack at ascending strengths of one norm."""

    metrics: ClassVar[tuple[str, ...]] = ("clean", "adv", "expected")
    by_distance: ClassVar[bool] = False
    """Whether expected accuracy is an exact integral, which needs no intermediate strengths."""
    whole_curve: ClassVar[bool] = True
    """Whether it is fast enough to be asked for at every strength up to eps_g."""

    norm: Norm = "linf"
    steps: Count = 10
    epsilons: Strengths = tuple(Strength(Fraction(i, 255)) for i in range(17))
    """Strengths at which accuracy is measured, ascending from 0."""
    prior: tuple[Annotated[Number, Field(ge=0)], ...] | None = None
    """Weights of the strengths in expected accuracy; tables use those up to eps_g. None means
    uniform in eps."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        pairs = zip(self.epsilons, self.epsilons[1:], strict=False)
        if not self.epsilons or self.epsilons[0] or any(a >= b for a, b in pairs):
            given = ", ".join(map(str, self.epsilons))
            raise ValueError(
                "epsilons: expected ascending strengths that begin with 0, "
                f"got {reprlib.repr(given) if given else 'none'}"
            )
        if not in_pixels(self.norm) and "epsilons" not in self.model_fields_set:
            raise ValueError(f"epsilons: norm {self.norm} has no default, expected strengths")
        count = len(self.epsilons)
        if self.prior is not None and (len(self.prior) != count or not any(self.prior)):
            raise ValueError(
                f"prior: expected {count} weights, one per strength and not all 0, "
                f"got {len(self.prior)}"
            )
        return self

    @property
    def name(self) -> str:
        return f"{self.attack}-{self.steps}"

    @property
    def stem(self) -> str:
        return f"{self.attack.replace('-', '_')}{self.steps}-{self.norm}"

    @property
    def levels(self) -> list[float]:
        """The strengths as numbers."""
        return [float(epsilon) for epsilon in self.epsilons]

    @property
    def _one_strength(self) -> dict[str, Any]:
        """The fields that a miniature changes."""
        strengths = tuple(Strength(Fraction(i, 255), self.norm) for i in (0, 2))
        return {"epsilons": strengths, "steps": 1, "images": 1, "prior": None}

    def passes(self, images: int, survival: float) -> float:
        return images * self._each(survival, 2 * self.steps)

    def _each(self, survival: float, steps: int) -> float:
        """Passes per image: 2 when clean, and `steps` at each strength that attacks it."""
        return 2 + survival * (len(self.epsilons) - 1) * steps

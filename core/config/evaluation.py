"""What one evaluation of a trained model is: an `EvalConfig` of some kind, a child of a run with an
id of its own.

A kind is a class of fields that also says what it needs, what it costs and how a rehearsal shrinks
it; core.evaluation.kinds knows what measures it. A user's own kind is a subclass of EvalConfig with
a method `measure(model, split, context)` besides, named by its import path. Torch-free, like the
config of a run.
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
from core.config.strength import Norm, Strength, Strengths
from core.config.values import Count, Number, Part, delta_of, hashed, safe_name
from core.errors import ConfigError

FAST = 1 / 6
"""Cost of a fast evaluation against an exact one, without its audit."""
AUDITED = 300
"""Images that the audit of a fast evaluation takes at most."""
AUTOATTACK = 9_700
"""Passes of AutoAttack standard on an image that withstands it: APGD-CE 100 steps, targeted APGD
and FAB 100 steps for each of 9 classes, 5,000 queries of Square."""
DEEPFOOL = 15
"""Looks at an image before and after the steps of FMN: at its nine strongest rivals, from two
starts a step of DeepFool or two, three halvings of the way."""
SURVIVORS = 100
"""Images on which a second opinion is asked for, at each strength; for all strengths together about
twice as many, since the survivors of large ones survive the small ones, too."""
FEWEST_MARGINS = 50
"""Images over which margins are compared with distances, at least."""
CORRUPTIONS = 11
"""Types of them."""
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


Problems = list[tuple[str, str]]
"""What is wrong with a mapping: dotted key and one line for each."""


class EvalConfig(Part):
    """What every kind has. `EvalConfig.parse` makes the one that `attack` names."""

    attack: str
    split: Literal["test", "val"] = "test"
    images: Count | None = None
    """Only the first images of the split; None means all."""
    code: Code = ()
    """Digest of the class of an own kind; () for kinds of ours."""

    package: ClassVar[tuple[str, str] | None] = None
    """An optional package that it needs, and how that is installed."""
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    """What an own kind gives tables: 'accuracy' over its rows, and names in Measured.metrics."""
    recorded: ClassVar[Mapping[str, Any]] = {}
    """What its id counts in beside its kind and its fields that differ from their defaults."""

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str = "evals") -> EvalConfig:
        """Validate a mapping; every problem at once. Raises ConfigError."""
        from core.config.evaluation_kinds import understood  # which knows all kinds

        found = understood(data)
        if isinstance(found, EvalConfig):
            return found
        raise ConfigError(*(f"{where}: {line}" for _, line in found))

    @property
    def name(self) -> str:
        """What its rows call it: 'apgd-ce-10', 'corruptions-3'; of an own kind its class."""
        return own_code.label(self.attack)

    @property
    def stem(self) -> str:
        """What its id begins with, before the split."""
        return safe_name(self.name.replace("-", ""))

    @property
    def id(self) -> str:
        """`<stem>-<split>-<16 hex>`: `apgd_ce10-linf-test-...`, `corruptions3-test-...`."""
        named = {} if self.attack == USUAL else {"attack": self.attack}
        return f"{self.stem}-{self.split}-{hashed(named | {**self.recorded} | delta_of(self))}"

    @abstractmethod
    def passes(self, images: int, survival: float) -> float:
        """Forwards of one image that it takes on a split with this many; a backward to the image
        counts as one, too. survival: expected share of (image, strength) pairs that are attacked
        to the last step."""

    def shrunk(self) -> EvalConfig:
        """Its miniature, which runs the same code in a moment."""
        return self.model_copy(update={"images": 1})

    def problem(self, size: int, classes: int | None = None) -> str | None:
        """Why it cannot take square images of this size, or a task with this many classes (None:
        not known); None if nothing is known against it."""
        return None

    @property
    def need(self) -> str:
        """The optional package that it needs, in a line; '' if it needs none."""
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
        except ValueError:  # imported, and not from a file
            there = True
        return None if there else self.need

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `EvalConfig.parse` takes it back."""
        data = self.model_dump(mode="json", exclude={"code"})
        own = {"code": dict(self.code), "metrics": [*self.metrics]} if self.code else {}
        return data | own


class AtStrengths(EvalConfig):
    """Accuracy under an attack at ascending strengths of one norm."""

    metrics: ClassVar[tuple[str, ...]] = ("clean", "adv", "expected")
    by_distance: ClassVar[bool] = False
    """Whether expected accuracy is an exact integral, for which no strengths between are needed."""

    norm: Norm = "linf"
    steps: Count = 10
    epsilons: Strengths = tuple(Strength(Fraction(i, 255)) for i in range(17))
    """Strengths at which accuracy is measured, ascending from 0."""
    prior: tuple[Annotated[Number, Field(ge=0)], ...] | None = None
    """Weights of the strengths in expected accuracy, of which tables take those up to eps_g; None
    is uniform in eps."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        pairs = zip(self.epsilons, self.epsilons[1:], strict=False)
        if not self.epsilons or self.epsilons[0] or any(a >= b for a, b in pairs):
            given = ", ".join(map(str, self.epsilons))
            raise ValueError(
                "epsilons: expected ascending strengths that begin with 0, "
                f"got {reprlib.repr(given) if given else 'none'}"
            )
        if self.norm != "linf" and "epsilons" not in self.model_fields_set:
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
        """What a miniature changes."""
        strengths = tuple(Strength(Fraction(i, 255), self.norm) for i in (0, 2))
        return {"epsilons": strengths, "steps": 1, "images": 1, "prior": None}

    def passes(self, images: int, survival: float) -> float:
        return images * self._each(survival, 2 * self.steps)

    def _each(self, survival: float, steps: int) -> float:
        """Passes of an image: the clean one, and those of the strengths that it survives to."""
        return 2 + survival * (len(self.epsilons) - 1) * steps


class RobustAccuracy(AtStrengths):
    """By APGD with the cross-entropy loss."""

    attack: Literal["apgd-ce"] = "apgd-ce"
    mode: Literal["exact", "fast"] = "exact"
    """`exact` for tables; `fast` costs a sixth of it plus an audit of up to 300 images, and
    falls back to `exact` if it is wrong on more than 1 % of those that can be."""
    audit: bool = False
    """A second opinion: FMN on the first 100 images that survive each strength."""

    @property
    def audit_steps(self) -> int:
        """Of FMN: ten times as many as of APGD, as each has by default."""
        return 10 * self.steps

    def passes(self, images: int, survival: float) -> float:
        taken = images * FAST + min(images, AUDITED) if self.mode == "fast" else images
        again = min(images, 2 * SURVIVORS) * 2 * (DEEPFOOL + self.audit_steps) * self.audit
        return taken * self._each(survival, 2 * self.steps) + again

    def shrunk(self) -> RobustAccuracy:
        """Clean and one strength, one step, one image."""
        return self.model_copy(update=self._one_strength)


class AutoAttack(AtStrengths):
    """By the standard ensemble on APGD's survivors, at every strength; takes long."""

    attack: Literal["autoattack"] = "autoattack"
    package: ClassVar[tuple[str, str] | None] = (
        "pyautoattack",
        "pip install 'epsweep[autoattack]'",
    )

    def passes(self, images: int, survival: float) -> float:
        return images * self._each(survival, 2 * self.steps + AUTOATTACK)

    def shrunk(self) -> RobustAccuracy:
        """APGD's: the ensemble has no miniature."""
        return RobustAccuracy(norm=self.norm, split=self.split, **self._one_strength)

    def problem(self, size: int, classes: int | None = None) -> str | None:
        return ensemble_problem(self.norm, size, classes)


class MinimalNorm(AtStrengths):
    """By the smallest perturbation that FMN finds, started by DeepFool: one attack per image for
    all strengths, and expected accuracy as an exact integral over distances."""

    by_distance: ClassVar[bool] = True

    attack: Literal["fmn"] = "fmn"
    steps: Count = 100
    """Of FMN, half of them from each of two starts."""
    margins: bool = False
    """Measure margins, too: distances of all images from their own predictions, those of wrong ones
    included, beside logit and feature margins."""
    pseudo_images: Count | None = None
    """Images of the validation split from whose distances pseudo-margins are learned; None learns
    none."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.margins and self.images is not None and self.images < FEWEST_MARGINS:
            raise ValueError(
                f"images: margins are compared over at least {FEWEST_MARGINS} images, "
                f"got {self.images}"
            )
        if self.pseudo_images is None:
            return self
        if not self.margins or self.split != "test":
            raise ValueError("pseudo_images: expected margins: true and split: test beside it")
        if self.pseudo_images < FEWEST_MARGINS:
            raise ValueError(
                f"pseudo_images: margins are learned from at least {FEWEST_MARGINS} images, "
                f"got {self.pseudo_images}"
            )
        return self

    def passes(self, images: int, survival: float) -> float:
        return (images + (self.pseudo_images or 0)) * 2 * (DEEPFOOL + self.steps)

    def shrunk(self) -> MinimalNorm:
        """Clean and one strength, one step, one image or as few as margins take."""
        few = {"images": FEWEST_MARGINS} if self.margins else {}
        few |= {"pseudo_images": FEWEST_MARGINS} if self.pseudo_images else {}
        return self.model_copy(update=self._one_strength | few)

    def problem(self, size: int, classes: int | None = None) -> str | None:
        least = 3 if self.margins else 2
        if classes is None or classes >= least:
            return None
        asked = "attack fmn, margins: true:" if self.margins else "attack fmn:"
        return f"{asked} needs a task with at least {least} classes, got {classes}"


class Corruptions(EvalConfig):
    """Accuracy under eleven common corruptions instead of an attack."""

    attack: Literal["corruptions"] = "corruptions"
    severity: Annotated[Count, Field(le=5)] = 3
    """How strong the corruptions are."""
    per_image: Literal["one", "all"] = "one"
    """One type of corruption per image, in consecutive blocks, or all on every image."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    """What an own kind gives tables: 'accuracy' over its rows, and names in Measured.metrics."""
    recorded: ClassVar[Mapping[str, Any]] = {"epsilons": ["0"]}

    @property
    def name(self) -> str:
        return f"{self.attack}-{self.severity}"

    def passes(self, images: int, survival: float) -> float:
        return images * (CORRUPTIONS if self.per_image == "all" else 1)


USUAL = "apgd-ce"

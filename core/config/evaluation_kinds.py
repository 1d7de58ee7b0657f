"""The kinds of evaluation, and how a mapping becomes an evaluation of the kind that it names.

core.evaluation.kinds maps each kind to the code that measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from core.config import own_code
from core.config.evaluation import USUAL, AtStrengths, EvalConfig, Problems
from core.config.fmn import IN_L1, gradients
from core.config.strength import Norm, in_pixels
from core.config.values import Count, problems
from core.errors import ConfigError, first_line

FAST = 1 / 6
"""Cost of a fast evaluation as a share of an exact one's, without its audit."""
AUDITED = 300
"""Maximum number of images in the audit of a fast evaluation."""
AUTOATTACK = 9_700
"""Passes of the standard AutoAttack on an image that withstands it: APGD-CE with 100 steps,
targeted APGD and FAB with 100 steps for each of 9 classes, 5,000 queries of Square."""
SURVIVORS = 100
"""Images that the second attack of `audit` takes at each strength; about twice as many over all
strengths, since most survivors of large strengths are among those of small ones."""
FEWEST_MARGINS = 50
"""Minimum number of images for comparing margins with distances."""
CORRUPTIONS = 11
"""Number of corruption types."""
LEAST_CLASSES = 4
"""Minimum number of classes for AutoAttack: the loss of targeted APGD uses the fourth largest
logit."""


def ensemble_problem(norm: Norm, size: int, classes: int | None = None) -> str | None:
    """Why AutoAttack cannot attack square images of `size` pixels, or a task with `classes` classes
    (None: unknown); None if no reason is known."""
    if classes is not None and classes < LEAST_CLASSES:
        return (
            f"attack autoattack needs at least {LEAST_CLASSES} classes for its targeted attacks, "
            f"got {classes}; use apgd-ce"
        )
    if not in_pixels(norm) and not _tiled(size):
        near = min(filter(_tiled, range(8, size + 9)), key=lambda other: abs(other - size))
        return (
            f"attack autoattack, norm {norm}: its Square attack cannot take images of {size} "
            f"pixels; nearest image_size that works: {near}"
        )
    return None


def _tiled(size: int) -> bool:
    """Whether the tiles with which Square begins in l2 and l1, each a fifth of the image wide, lie
    within the image; at 12, 14, 18, 19 and 24 pixels they do not."""
    tile = size // 5
    start = (size - 5 * tile) // 2
    return tile <= 1 or start + size // tile * tile <= size


class RobustAccuracy(AtStrengths):
    """Accuracy under APGD with the cross-entropy loss."""

    attack: Literal["apgd-ce"] = "apgd-ce"
    mode: Literal["exact", "fast"] = "exact"
    """`exact` for tables; `fast` costs a sixth of that plus an audit of up to 300 images, and falls
    back to `exact` unless the audit shows that at most 1 % of the doubtful images are wrong."""
    audit: bool = False
    """A second opinion: FMN on the first 100 images that survive each strength."""

    @property
    def audit_steps(self) -> int:
        """Steps of FMN: ten times APGD's, which is the ratio of their defaults."""
        return 10 * self.steps

    def passes(self, images: int, survival: float) -> float:
        taken = {"exact": images, "fast": images * FAST + min(images, AUDITED)}[self.mode]
        second = 2 * gradients(self.norm, self.audit_steps)
        again = min(images, 2 * SURVIVORS) * second * self.audit
        return taken * self._each(survival, 2 * self.steps) + again

    def shrunk(self) -> RobustAccuracy:
        """Clean and one strength, one step, one image."""
        return self.model_copy(update=self._one_strength)


class AutoAttack(AtStrengths):
    """Accuracy under the standard AutoAttack, run on APGD's survivors at every strength; slow."""

    attack: Literal["autoattack"] = "autoattack"
    package: ClassVar[tuple[str, str] | None] = (
        "pyautoattack",
        "pip install 'epsweep[autoattack]'",
    )
    whole_curve: ClassVar[bool] = False

    def passes(self, images: int, survival: float) -> float:
        return images * self._each(survival, 2 * self.steps + AUTOATTACK)

    def shrunk(self) -> RobustAccuracy:
        """A miniature of APGD's evaluation, since the ensemble cannot be made small."""
        return RobustAccuracy(norm=self.norm, split=self.split, **self._one_strength)

    def problem(self, size: int, classes: int | None = None) -> str | None:
        return ensemble_problem(self.norm, size, classes)


class MinimalNorm(AtStrengths):
    """Accuracy from the smallest perturbation that FMN finds, started by DeepFool: one attack per
    image for all strengths, and expected accuracy as an exact integral over distances."""

    by_distance: ClassVar[bool] = True

    attack: Literal["fmn"] = "fmn"
    steps: Count = 100
    """Steps of FMN, divided among descents towards several classes: 2 of 50 in l-inf, 5 of 20 in
    l2. The default in l1 is 216, 9 of 24."""
    margins: bool = False
    """Also measure margins: the distance at which each image's prediction changes, whether right or
    wrong, and its logit and feature margins."""
    pseudo_images: Count | None = None
    """Images of the validation split whose distances train the pseudo-margins; None: no
    pseudo-margins."""

    @model_validator(mode="before")
    @classmethod
    def _longest_in_l1(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("norm") == "l1":
            return {"steps": IN_L1, **data}
        return data

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
            raise ValueError("pseudo_images: needs margins: true and split: test")
        if self.pseudo_images < FEWEST_MARGINS:
            raise ValueError(
                f"pseudo_images: margins are learned from at least {FEWEST_MARGINS} images, "
                f"got {self.pseudo_images}"
            )
        return self

    @property
    def fewest(self) -> Mapping[str, int]:
        splits = [self.split] * self.margins + ["val"] * bool(self.pseudo_images)
        return dict.fromkeys(splits, FEWEST_MARGINS)

    def passes(self, images: int, survival: float) -> float:
        return (images + (self.pseudo_images or 0)) * 2 * gradients(self.norm, self.steps)

    def shrunk(self) -> MinimalNorm:
        """Clean and one strength, one step, one image or the fewest that margins accept."""
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
    """Strength of the corruptions, 1 to 5."""
    per_image: Literal["one", "all"] = "one"
    """`one`: each image gets one type, in consecutive blocks; `all`: every image gets all types."""

    takes_floats: ClassVar[bool] = False
    recorded: ClassVar[Mapping[str, Any]] = {"epsilons": ["0"]}

    @property
    def name(self) -> str:
        return f"{self.attack}-{self.severity}"

    def passes(self, images: int, survival: float) -> float:
        return images * {"one": 1, "all": CORRUPTIONS}[self.per_image]


KINDS: Mapping[str, type[EvalConfig]] = {
    "apgd-ce": RobustAccuracy,
    "autoattack": AutoAttack,
    "fmn": MinimalNorm,
    "corruptions": Corruptions,
}
_ELSEWHERE = {
    "norm": "linf",
    "steps": 10,
    "epsilons": ["0"],
    "prior": None,
    "mode": "exact",
    "audit": False,
    "margins": False,
    "pseudo_images": None,
    "severity": 3,
    "per_image": "one",
}
"""Values that older records store for fields that belong to other kinds; accepted and ignored."""


def _kind(named: object) -> type[EvalConfig]:
    """The class of a kind: a built-in one by its name, a user-defined one by its import path.
    Raises ConfigError."""
    if isinstance(named, str) and named in KINDS:
        return KINDS[named]
    if not isinstance(named, str) or not own_code.is_own(named):
        known = ", ".join(f"'{name}'" for name in KINDS)
        raise ConfigError(
            f"expected {known} or the import path of your own class (MODULE:NAME), got {named!r}"
        )
    kind = own_code.load(named)
    if not isinstance(kind, type) or not issubclass(kind, EvalConfig):
        raise ConfigError(f"{named}: expected a subclass of core.config.EvalConfig, got {kind!r}")
    if lacks := sorted({*kind.__abstractmethods__} | {"measure"} - {*dir(kind)}):
        raise ConfigError(f"{named}: has no method '{lacks[0]}'")
    return kind


def understood(data: object) -> EvalConfig | Problems:
    """The evaluation that a mapping describes, or everything that is wrong with it."""
    if not isinstance(data, Mapping):
        return [("", f"expected a mapping such as {{attack: {USUAL}}}, got {data!r}")]
    named = data.get("attack", USUAL)
    try:
        kind = _kind(named)
        if own_code.is_own(named):
            stored = {name: value for name, value in data.items() if name != "metrics"}
            data = {"code": own_code.digests([named])} | stored
        elif data.get("code"):
            return [("code", "code: remove it, it is computed, and only for kinds of your own")]
    except ConfigError as error:
        return [("attack", f"attack: {error.lines[0]}")]
    foreign = {name for name in data if name in _ELSEWHERE and name not in kind.model_fields}
    found = [
        (name, f"{name}: does not apply to attack '{named}', remove it")
        for name in data
        if name in foreign and data[name] != _ELSEWHERE[name]
    ]
    own = {name: value for name, value in data.items() if name not in foreign}
    try:
        evaluation = kind.model_validate(own)
    except ValidationError as error:
        return found + problems(error, kind)
    return found or _untried(evaluation) or evaluation


def _untried(evaluation: EvalConfig) -> Problems:
    """Call what planning calls of a user-defined class, so that errors in it are reported with
    their place in the grid."""
    if not evaluation.code:
        return []
    try:
        float(evaluation.passes(1, 0.5))
        evaluation.shrunk().to_dict()
    except Exception as error:  # the user's code may raise anything
        told = f"{type(error).__name__}: {first_line(error)}"
        return [("attack", f"attack: {evaluation.attack}: passes() or shrunk() fails: {told}")]
    return []

"""What one run is: `RunConfig` holds everything that changes the science, and nothing else.

Where and how a run executes (partition, workers, micro-batch, tracking) lives in a profile, so
moving a run to another cluster never changes its identity. Torch-free: planning imports this.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from core.registry import canonical_backbone

SCHEMA = 1
"""Version of the identity. Bump it when a default or the meaning of a field changes."""


class ConfigError(ValueError):
    """Input that cannot be run. `lines` holds one finished sentence per problem."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def nearest(name: str, known: Iterable[str], *, shown: int = 8) -> str:
    """', did you mean ...?' where a known name is close, else the list of known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f", did you mean '{close[0]}'?"
    more = ", ..." if len(known) > shown else ""
    return f" (known: {', '.join(known[:shown])}{more})"


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


Norm = Literal["linf", "l2", "l1"]
LARGEST = 10**6
"""No l2 or l1 ball in [0, 1]^n with images of any size is larger."""


def parse_strength(value: object, norm: str = "linf") -> Fraction:
    """An attack strength as an exact fraction: '4/255', '0.03', 0, Fraction(4, 255).

    In [0, 1] for l-inf; a plain number such as 0.5, 2 or 12 for l2 and l1. Raises ValueError for
    anything else; a bare '4' is most likely 4/255 and is told so.
    """
    _no_bool(value)
    text = str(value).replace(" ", "")
    try:
        # Fraction writes an exponent out: 1e-999999999 would fill the memory.
        strength = Fraction("" if re.search(r"[eE][+-]?[\d_]{3}", text) else text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a strength such as 4/255, got {value!r}") from None
    if norm != "linf" and not 0 <= strength <= LARGEST:
        raise ValueError(f"a strength for {norm} lies in [0, {LARGEST}], got {value}")
    if norm == "linf" and not 0 <= strength <= 1:
        hint = f", did you mean {strength}/255?" if 1 < strength <= 255 else ""
        raise ValueError(f"a strength lies in [0, 1], got {value}{hint}")
    return strength


def show_strength(strength: Fraction, norm: str = "linf") -> str:
    """In 255ths where that is exact ('8/255', not '8/255' reduced), else as a plain fraction; for
    l2 and l1 always the latter."""
    if norm != "linf":
        return str(strength)
    scaled, rest = divmod(strength.numerator * 255, strength.denominator)
    return f"{scaled}/255" if strength and not rest else str(strength)


def rounded(epsilon: float, norm: str) -> str:
    """A strength of a schedule for people: '2.67/255', or '0.5' for l2 and l1."""
    return f"{epsilon * 255:.3g}/255" if norm == "linf" else f"{epsilon:.3g}"


def _strength_slug(strength: Fraction, norm: str) -> str:
    if norm != "linf":
        return f"{norm}_eps{strength}".replace("/", "_")
    scaled = strength * 255
    return f"eps{scaled}".replace("/", "_")


def _parse_strengths(value: object) -> object:
    """A list of strengths, or the range '0..16/255' meaning 0, 1/255, ..., 16/255."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*/\s*(\d+)\s*", value)
        low, high, unit = map(int, match.groups()) if match else (0, 0, 0)
        if not unit or high - low > 1000:
            raise ValueError(f"expected a list of strengths or '0..16/255', got {value!r}")
        return [Fraction(i, unit) for i in range(low, high + 1)]
    return value


def _parse_for_norm(value: object, info: ValidationInfo) -> Fraction:
    """By the `norm` of the same config, where that has one (a field before this one)."""
    return parse_strength(value, info.data.get("norm", "linf"))


def _show(strength: Fraction) -> str:
    return show_strength(strength, "linf" if strength <= 1 else "l2")


Strength = Annotated[
    Fraction,
    BeforeValidator(_parse_for_norm),
    PlainSerializer(_show, return_type=str, when_used="always"),
]
AnyStrength = Annotated[
    Fraction,
    BeforeValidator(lambda value: parse_strength(value, "l2")),
    PlainSerializer(_show, return_type=str, when_used="always"),
]
"""A strength whose norm stands in another part of the config, which checks the range."""
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]


class Part(BaseModel):
    """Base of every config object: frozen, hashable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class Optim(Part):
    """AdamW with a cosine learning rate after a linear warm-up; biases and norms do not decay."""

    lr: Annotated[Number, Field(gt=0)] = 1e-4
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-2
    head_lr: Annotated[Number, Field(gt=0)] | None = None
    """Learning rate of the head; None is that of the backbone."""
    head_weight_decay: Annotated[Number, Field(ge=0)] | None = None
    warmup: Annotated[Number, Field(ge=0, lt=1)] = 0.05
    """Fraction of all optimiser steps spent warming up."""
    clip: Annotated[Number, Field(ge=0)] = 0.0
    """Largest gradient norm; 0 leaves gradients alone."""
    ema: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Decay per step of a moving average of the weights, which is then what is evaluated and
    kept; 0 is none."""


class Objective(Part):
    """What training minimises: `at`, cross-entropy on attacked images, or `trades`."""

    kind: Literal["at", "trades"] = "at"
    beta: Annotated[Number, Field(gt=0)] = 1.0
    """TRADES: weight of the divergence between clean and attacked predictions."""


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


Epoch = Annotated[int, Field(strict=True)]


class Schedule(Part):
    """How strong the training attack is at each epoch, as a fraction alpha(t) of eps_g.

    T1 and T2 are whole epochs here; fractions and presets are resolved by `resolve_schedule`.
    """

    kind: Literal["standard", "two_hinge", "uniform", "auto", "points"] = "two_hinge"
    T1: Epoch = 0
    T2: Epoch = 0
    points: tuple[tuple[Epoch, Strength], ...] = ()
    """(epoch, fraction) pairs; linear between them, constant before the first and after the
    last. Two at one epoch are a jump; those beyond the training are never reached."""
    patience: Count = 5
    tolerance: Annotated[Number, Field(ge=0, lt=1)] = 0.02

    @property
    def is_fix(self) -> bool:
        """Full strength from the first epoch on."""
        return self.kind == "two_hinge" and self.T1 == 0 and self.T2 == 0

    def label(self, epochs: int) -> str:
        """The setting's name in tables: fix, sched, standard, uniform, auto, 'T1=5;T2=25' or
        'points=0:0;9:1'."""
        if self.kind == "points":
            pairs = (f"{epoch}:{float(fraction):g}" for epoch, fraction in self.points)
            return f"points={';'.join(pairs)}"
        if self.kind != "two_hinge":
            return self.kind
        if self.is_fix:
            return "fix"
        if sched_hinges(epochs) == (self.T1, self.T2):
            return "sched"
        return f"T1={self.T1};T2={self.T2}"


PRESETS = ("standard", "fix", "sched", "uniform", "auto")


def sched_hinges(epochs: int) -> tuple[int, int]:
    """The paper's T1 = 12 and T2 = 37 of 50 epochs, scaled to `epochs` and rounded half up."""
    return (2 * 12 * epochs + 50) // 100, (2 * 37 * epochs + 50) // 100


def _hinge(value: object, epochs: int, name: str) -> object:
    """Whole epochs as given; a decimal in [0, 1] is a fraction of the training."""
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ValueError(
                f"{name}: expected whole epochs or a fraction of the training in [0, 1], "
                f"got {value}"
            )
        return int(value * epochs + 0.5)
    return value


def _points(value: object, epochs: int) -> list[tuple[object, object]]:
    """(epoch, fraction) pairs with whole, ascending epochs from 0. Raises ValueError."""
    form = "expected points: [[epoch, fraction], ...] in ascending order of epochs"
    pairs = value if isinstance(value, list | tuple) else ()
    if not pairs or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"{form}, got {value!r}")
    found = [(_hinge(epoch, epochs, "points"), fraction) for epoch, fraction in pairs]
    whole = [epoch for epoch, _ in found if type(epoch) is int]
    if len(whole) < len(found) or whole != sorted(whole) or whole[0] < 0:
        raise ValueError(f"{form}, got epochs {', '.join(str(epoch) for epoch, _ in pairs)}")
    return found


def resolve_schedule(value: object, epochs: int) -> object:
    """A preset name or a mapping -> the fields of `Schedule`, hinges in whole epochs.

    Raises ValueError where the name is unknown, a mapping mixes kinds, or 0 <= T1 <= T2 <= epochs
    does not hold.
    """
    if isinstance(value, Schedule):
        value = value.model_dump()
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a preset ({', '.join(PRESETS)}) or a mapping, got {value!r}")
    given = {key: item for key, item in value.items() if key != "name"}
    kind = given.get("kind", "two_hinge")
    if kind in ("fix", "sched"):
        if set(given) > {"kind"}:
            raise ValueError(f"'{kind}' takes no further keys; use kind: two_hinge with T1 and T2")
        hinges = sched_hinges(epochs) if kind == "sched" else (0, 0)
        return {"kind": "two_hinge", "T1": hinges[0], "T2": hinges[1]}
    if kind not in ("standard", "two_hinge", "uniform", "auto", "points"):
        known = (*PRESETS, "two_hinge", "points")
        raise ValueError(f"unknown schedule '{kind}'{nearest(str(kind), known)}")
    if kind != "two_hinge" and (given.get("T1") or given.get("T2")):
        raise ValueError(f"T1 and T2 belong to kind: two_hinge, not to '{kind}'")
    if kind == "points":
        given["points"] = _points(given.get("points"), epochs)
    elif given.get("points"):
        raise ValueError(f"points belong to kind: points, not to '{kind}'")
    if kind == "two_hinge":
        T1, T2 = (_hinge(given.get(name, 0), epochs, name) for name in ("T1", "T2"))
        given |= {"T1": T1, "T2": T2}
        numbers = [x for x in (T1, T2) if isinstance(x, int) and not isinstance(x, bool)]
        if len(numbers) == 2 and not 0 <= numbers[0] <= numbers[1] <= epochs:
            raise ValueError(f"expected 0 <= T1 <= T2 <= {epochs} epochs, got T1={T1}, T2={T2}")
    return given


def _with_schedule(data: Mapping[str, Any]) -> Mapping[str, Any]:
    epochs = data.get("epochs", 50)
    if "schedule" not in data:
        return data
    if type(epochs) is not int or epochs < 1:
        # Of the two only `epochs` is to blame; it is rejected next.
        return {key: value for key, value in data.items() if key != "schedule"}
    return {**data, "schedule": resolve_schedule(data["schedule"], epochs)}


def _canonical_optim(optim: Optim, protocol: str) -> Optim:
    """The head's own numbers only where there are two kinds of weights and they differ."""
    changes = {}
    for name in ("lr", "weight_decay"):
        common, head = getattr(optim, name), getattr(optim, f"head_{name}")
        if protocol == "linear" and head is not None:
            changes[name] = common = head
        if head == common:
            changes[f"head_{name}"] = None
    return optim.model_copy(update=changes) if changes else optim


class RunConfig(Part):
    """One training run; two equal configs are the same run, wherever they are launched from."""

    backbone: Annotated[str, Field(min_length=1), BeforeValidator(canonical_backbone)]
    """A shorthand of the registry or any timm id."""
    weights: Annotated[str, Field(min_length=1)] = "pretrained"
    """'pretrained' (timm's own), 'random', or a checkpoint: a path, or a name in <root>/weights."""
    dataset: Annotated[str, Field(min_length=1)]
    """A known name or the path of a folder with train/, val/ and test/."""
    image_size: Annotated[Count, Field(ge=8)] = 224
    norm: Norm = "linf"
    """Threat model of training and of the validation's attack."""
    epsilon_g: Strength = Fraction(4, 255)
    """Target strength eps_g, of pixels in [0, 1]."""
    schedule: Schedule = Schedule()
    epochs: Count = 50
    batch: Count = 128
    """Effective batch: images per optimiser step."""
    protocol: Literal["full", "linear"] = "full"
    """`full` trains everything; `linear` the head alone, on a frozen backbone."""
    objective: Objective = Objective()
    optim: Optim = Optim()
    attack: Attack = Attack()
    validation: Validation = Validation()
    augment: Augment = Augment()
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Annotated[int, Field(strict=True, ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        return _with_schedule(data)

    @model_validator(mode="after")
    def _canonical(self) -> Self:
        # What a run does not use must not make it another run.
        if self.schedule.kind != "auto":
            plain = {"patience": 5, "tolerance": 0.02}
            object.__setattr__(self, "schedule", self.schedule.model_copy(update=plain))
        if self.validation.epsilon == self.epsilon_g:
            implied = self.validation.model_copy(update={"epsilon": None})
            object.__setattr__(self, "validation", implied)
        object.__setattr__(self, "optim", _canonical_optim(self.optim, self.protocol))
        if self.objective.kind == "at" or self.schedule.kind == "standard":
            object.__setattr__(self, "objective", Objective())
        # Standard fine-tuning never attacks: it is one run whatever eps_g a table asks for.
        if self.schedule.kind == "standard":
            if self.validation.epsilon is None:
                object.__setattr__(self, "norm", "linf")
            object.__setattr__(self, "epsilon_g", Fraction(0))
            object.__setattr__(self, "attack", Attack())
        elif self.epsilon_g == 0:
            raise ValueError("epsilon_g: 0 means no attack, use schedule: standard")
        if self.validation.epsilon is not None:
            try:
                parse_strength(self.validation.epsilon, self.norm)
            except ValueError as error:
                raise ValueError(f"validation.epsilon: {error}") from None
        return self

    @classmethod
    def check(cls, data: Mapping[str, Any]) -> RunConfig | list[tuple[str, str]]:
        """The config, or every problem at once as (dotted key, one-line message) pairs."""
        found = []
        try:
            data = _with_schedule(data)
        except ValueError as error:
            # Left out from here on, so that the other fields are still looked at.
            data = {key: value for key, value in data.items() if key != "schedule"}
            found.append(("schedule", f"schedule: {error}"))
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            return found + problems(error, cls)
        return found or config

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str = "config") -> RunConfig:
        """Validate a nested mapping; every problem at once. Raises ConfigError."""
        config = cls.check(data)
        if isinstance(config, list):
            raise ConfigError(*(f"{where}: {line}" for _, line in config))
        return config

    @property
    def id(self) -> str:
        """`<slug>-<16 hex>`: a readable name, and a hash of schema version and delta."""
        return f"{self.slug}-{_digest(self)}"

    @property
    def slug(self) -> str:
        """Lower-case letters, digits, '_' and '.', so that an id is always one safe file name."""
        parts = [self.backbone, self.dataset.rstrip("/").rsplit("/", 1)[-1]]
        if self.schedule.kind != "standard":
            parts.append(_strength_slug(self.epsilon_g, self.norm))
        parts += [self.setting.replace(";", "_").replace("=", ""), f"s{self.seed}"]
        return "-".join(map(_safe, parts))

    @property
    def delta(self) -> dict[str, Any]:
        """The fields that differ from their defaults: a new neutral field keeps old ids."""
        return _delta(self)

    @property
    def setting(self) -> str:
        """The name of this run's schedule in tables."""
        return self.schedule.label(self.epochs)

    @property
    def validation_epsilon(self) -> Fraction:
        """Strength of the per-epoch adversarial accuracy; 4/255 where nothing is attacked."""
        if self.validation.epsilon is not None:
            return self.validation.epsilon
        return self.epsilon_g or Fraction(4, 255)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data, strengths as '4/255'; `RunConfig.parse` takes it back."""
        return self.model_dump(mode="json")


class EvalConfig(Part):
    """One evaluation of a trained model; a child of a run with an id of its own."""

    attack: Literal["apgd-ce", "autoattack"] = "apgd-ce"
    """`autoattack`: the standard ensemble on APGD's survivors, at every strength; takes long."""
    norm: Norm = "linf"
    steps: Count = 10
    epsilons: Annotated[tuple[Strength, ...], BeforeValidator(_parse_strengths)] = tuple(
        Fraction(i, 255) for i in range(17)
    )
    """Strengths at which accuracy is measured, ascending from 0."""
    prior: tuple[Annotated[Number, Field(ge=0)], ...] | None = None
    """Weights of the strengths in expected accuracy; None is uniform in eps."""
    split: Literal["test", "val"] = "test"
    images: Count | None = None
    """Only the first images of the split; None means all."""
    mode: Literal["exact", "fast"] = "exact"
    """`exact` for tables; `fast`, a sixth of its cost, is audited on a tenth of the images."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        pairs = zip(self.epsilons, self.epsilons[1:], strict=False)
        if not self.epsilons or self.epsilons[0] != 0 or any(a >= b for a, b in pairs):
            raise ValueError("epsilons: expected ascending strengths that begin with 0")
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
        """`<attack><steps>-<norm>-<split>-<16 hex>`."""
        attack = self.attack.replace("-", "_")
        return f"{attack}{self.steps}-{self.norm}-{self.split}-{_digest(self)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `EvalConfig.parse` takes it back."""
        return self.model_dump(mode="json")


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return show_strength(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    # -0.0 equals 0.0, so both must give one id.
    return value + 0.0 if isinstance(value, float) else value


@cache
def _defaults(model: type[Part]) -> tuple[tuple[str, Any], ...]:
    # Reading pydantic's field table is slow; ids are computed for 100,000 configs at a time.
    return tuple((name, field.default) for name, field in model.model_fields.items())


def _delta(part: Part) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, default in _defaults(type(part)):
        value = getattr(part, name)
        if value is not default and value != default:
            changed[name] = _delta(value) if isinstance(value, Part) else _plain(value)
    return changed


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _digest(part: Part) -> str:
    text = _encode([SCHEMA, _delta(part)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _safe(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", text.lower())[:40]


def fields_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted field name below `model`: 'epochs', 'optim.lr', ..."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += fields_of(field.annotation, f"{prefix}{name}.")
    return names


def problems(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """A validation error as (dotted key, one-line message) pairs, unknown keys with a hint."""
    found = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        prefix = f"{key}: " if key else ""
        if item["type"] == "extra_forbidden":
            found.append((key, f"{key}: unknown key{nearest(key, fields_of(model))}"))
            continue
        message = item["msg"].removeprefix("Value error, ")
        shows = item["type"] not in ("value_error", "missing")
        got = f", got {item['input']!r}" if shows else ""
        found.append((key, f"{prefix}{message[0].lower() + message[1:]}{got}"))
    return found

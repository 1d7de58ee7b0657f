"""Epsilon schedules as a config describes them: presets, hinges in epochs or fractions, points.

`core.training.schedules` computes the strength of each epoch from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, assert_never, cast, get_args

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from core.config import own_code
from core.config.knobs import Knobs
from core.config.strength import Strength
from core.config.values import Count, Number, Part, nearest

Epoch = Annotated[int, Field(strict=True)]
Share = Annotated[
    Fraction,
    PlainValidator(lambda value: Strength.parse(value).number),
    PlainSerializer(str, return_type=str, when_used="always"),
]
"""A share of eps_g in [0, 1], written like a strength: 0.5 or 1/2."""
Kind = Literal[
    "none",
    "standard",
    "two_hinge",
    "points",
    "uniform",
    "auto",
    "target",
    "curriculum",
    "instance",
    "friendly",
]
KNOBS: dict[str, tuple[str, ...]] = {
    "none": (),
    "standard": (),
    "two_hinge": ("T1", "T2"),
    "points": ("points",),
    "uniform": (),
    "auto": ("patience", "tolerance"),
    "target": ("hold", "gain"),
    "curriculum": ("hold",),
    "instance": ("levels",),
    "friendly": (),
}
"""Kind -> the fields that apply to it."""
KINDS: tuple[str, ...] = get_args(Kind)
PRESETS = (
    *("none", "standard", "fix", "sched", "uniform", "auto"),
    *("target", "curriculum", "instance", "friendly"),
)


def _kind(kind: str) -> str:
    if kind not in KINDS and not own_code.is_own(kind):
        raise ValueError(
            f"unknown schedule '{kind}'{nearest(kind, (*PRESETS, 'two_hinge', 'points'))}"
        )
    return kind


class Schedule(Part):
    """How strong the training attack is at each epoch, as a fraction alpha(t) of eps_g.

    T1 and T2 are whole epochs here; `resolve_schedule` converts fractions and presets.
    """

    kind: Annotated[str, AfterValidator(_kind)] = "two_hinge"
    """One of `KINDS`, or the import path of a class of the user's: 'my_pkg.mod:Cosine'."""
    T1: Epoch = 0
    """For `two_hinge`: alpha is 0 before epoch T1, rises linearly to 1 at T2, and stays there."""
    T2: Epoch = 0
    points: tuple[tuple[Epoch, Share], ...] = ()
    """(epoch, fraction) pairs; linear between them, constant before the first and after the
    last. Two pairs at one epoch make a jump; pairs after the last epoch are never reached."""
    patience: Count = 5
    tolerance: Annotated[Number, Field(ge=0, lt=1)] = 0.02
    hold: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    """For `target` and `curriculum`: training accuracy under attack from which the strength grows,
    as a share of the clean accuracy before the ramp."""
    gain: Annotated[Number, Field(ge=0, le=4)] = 1.0
    """For `target`: powers of two by which the pace of the ramp adapts; 0 means `sched`."""
    levels: Annotated[Count, Field(ge=1, le=255)] = 8
    """For `instance`: number of steps from 0 to eps_g."""
    knobs: Knobs = ()
    """Keyword arguments for a class of the user's: in a grid, all keys next to `kind`."""

    @property
    def trains(self) -> bool:
        """False for `none`, which evaluates the network from its file, head included, untrained."""
        return self.kind != "none"

    @property
    def attacks(self) -> bool:
        """Whether training may attack at all."""
        return self.kind not in ("none", "standard")

    @property
    def is_fix(self) -> bool:
        """Full strength from the first epoch on."""
        return self.kind == "two_hinge" and self.T1 == 0 and self.T2 == 0

    def label(self, epochs: int) -> str:
        """The setting's name in tables: none, fix, sched, standard, uniform, auto, 'T1=5;T2=25' or
        'points=0:0;9:1'; for a class of the user's, name and knobs: 'Cosine;power=2'."""
        if own_code.is_own(self.kind):
            return own_code.label(self.kind, self.knobs)
        match kind := cast(Kind, self.kind):
            case "points":
                pairs = (f"{epoch}:{float(fraction):g}" for epoch, fraction in self.points)
                return f"points={';'.join(pairs)}"
            case "target" | "curriculum" | "instance":
                usual = Schedule(kind=kind)
                knobs = [(name, getattr(self, name)) for name in KNOBS[kind]]
                changed = [(name, value) for name, value in knobs if value != getattr(usual, name)]
                return ";".join([kind, *(f"{name}={value:g}" for name, value in changed)])
            case "none" | "standard" | "uniform" | "auto" | "friendly":
                return kind
            case "two_hinge":
                sched = sched_hinges(epochs) == (self.T1, self.T2)
                return "fix" if self.is_fix else "sched" if sched else f"T1={self.T1};T2={self.T2}"
            case _:
                assert_never(kind)


def unused(kind: str) -> dict[str, object]:
    """The fields that do not apply to a kind, with their defaults."""
    fields = {name for names in KNOBS.values() for name in names} - {*KNOBS.get(kind, ())}
    return {name: Schedule.model_fields[name].default for name in sorted(fields)}


def sched_hinges(epochs: int) -> tuple[int, int]:
    """The paper's T1 = 12 and T2 = 37 of 50 epochs, scaled to `epochs` and rounded half up."""
    return (2 * 12 * epochs + 50) // 100, (2 * 37 * epochs + 50) // 100


def _hinge(value: object, epochs: int, name: str) -> object:
    """A hinge in whole epochs: an int unchanged, a float in [0, 1] as a fraction of the training.
    Raises ValueError for other floats."""
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
    """The fields of `Schedule` from a preset's name or a mapping, with hinges in whole epochs.

    Raises ValueError if the name is unknown, a field belongs to another kind, or
    0 <= T1 <= T2 <= epochs does not hold.

    >>> resolve_schedule("sched", 50)
    {'kind': 'two_hinge', 'T1': 12, 'T2': 37}
    >>> resolve_schedule({"T1": 0.1, "T2": 0.5}, 20)
    {'T1': 2, 'T2': 10}
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
    if own_code.is_own(kind):
        return own_code.with_knobs(given)
    _kind(str(kind))
    for name, usual in unused(kind).items():
        if given.get(name, usual) != usual and (given[name] or usual):
            owners = [owner for owner, fields in KNOBS.items() if name in fields]
            names = KNOBS[owners[0]] if len(owners) == 1 else (name,)
            verb = "belong" if len(names) > 1 or name.endswith("s") else "belongs"
            raise ValueError(
                f"{' and '.join(names)} {verb} to kind: {' or '.join(owners)}, not to '{kind}'"
            )
    if kind == "points":
        given["points"] = _points(given.get("points"), epochs)
    if kind == "two_hinge":
        T1, T2 = (_hinge(given.get(name, 0), epochs, name) for name in ("T1", "T2"))
        given |= {"T1": T1, "T2": T2}
        numbers = [x for x in (T1, T2) if isinstance(x, int) and not isinstance(x, bool)]
        if len(numbers) == 2 and not 0 <= numbers[0] <= numbers[1] <= epochs:
            raise ValueError(f"expected 0 <= T1 <= T2 <= {epochs} epochs, got T1={T1}, T2={T2}")
    return given


def with_schedule(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a run, with its schedule resolved. Raises ValueError as `resolve_schedule`."""
    epochs = data.get("epochs", 50)
    if "schedule" not in data:
        return data
    given = data["schedule"]
    kind = given.get("kind") if isinstance(given, Mapping) else getattr(given, "kind", given)
    if kind == "none":
        epochs, data = 0, {**data, "epochs": 0}
    elif type(epochs) is not int or epochs < 1:
        # Only `epochs` is wrong and is rejected next; without it the schedule cannot be checked.
        return {key: value for key, value in data.items() if key != "schedule"}
    return {**data, "schedule": resolve_schedule(given, epochs)}

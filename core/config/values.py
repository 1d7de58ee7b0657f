"""What configs are made of: strengths, numbers, errors that say where, and identity by delta.

Torch-free, like everything that planning imports.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
)

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


def named_or_full(place: str) -> str:
    """A name, or a folder by its full path in its one spelling. Raises ValueError for a relative
    path: it is part of what a run is, and means another folder wherever one is."""
    if "/" not in place:
        return place
    if not place.startswith(("/", "~")):
        raise ValueError(
            f"'{place}' depends on where one is, write the full path: {os.path.abspath(place)}"
        )
    return os.path.normpath(place)


def at_home(path: str | Path) -> Path:
    """`path` with the home folder for a leading '~'. Raises ConfigError if there is no such user,
    or if the path has bytes that are not UTF-8: configs and records could not name it."""
    shown = os.fsencode(path).decode(errors="replace")
    try:
        os.fspath(path).encode()
        return Path(path).expanduser()
    except UnicodeEncodeError:
        raise ConfigError(f"{shown}: the name of this path is not UTF-8 text") from None
    except RuntimeError:
        user = Path(path).parts[0]
        raise ConfigError(f"{shown}: no home folder of '{user}' is known") from None


def no_bool(value: object) -> object:
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
    no_bool(value)
    text = str(value).replace(" ", "")
    try:
        # Fraction writes an exponent out: 1e-999999999 would fill the memory.
        strength = Fraction("" if re.search(r"[eE][+-]?[\d_]{3}", text) else text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a strength such as 4/255, got {value!r}") from None
    if norm != "linf" and not 0 <= strength <= LARGEST:
        raise ValueError(f"a strength for {norm} lies in [0, {LARGEST}], got {value}")
    if norm == "linf" and not 0 <= strength <= 1:
        whole = strength.denominator == 1 and 1 < strength <= 255
        hint = f", did you mean {strength}/255?" if whole else ""
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


def strength_slug(strength: Fraction, norm: str) -> str:
    if norm != "linf":
        return f"{norm}_eps{strength}".replace("/", "_")
    scaled = strength * 255
    return f"eps{scaled}".replace("/", "_")


def parse_strengths(value: object) -> object:
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
Number = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]


class Part(BaseModel):
    """Base of every config object: frozen, hashable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


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


def delta_of(part: Part) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, default in _defaults(type(part)):
        value = getattr(part, name)
        if value is not default and value != default:
            changed[name] = delta_of(value) if isinstance(value, Part) else _plain(value)
    return changed


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def digest(part: Part) -> str:
    return hashed(delta_of(part))


def hashed(delta: Mapping[str, Any]) -> str:
    """The 16 hex of an id."""
    text = _encode([SCHEMA, delta])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def safe_name(text: str) -> str:
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

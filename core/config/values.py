"""Building blocks of configs: numbers, error messages with their place, identity by delta.

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
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from core.config.strength import Exact, Strength, in_255ths, no_bool
from core.errors import ConfigError

SCHEMA = 1
"""Version of the identity. Bump it when a default or the meaning of a field changes."""


def nearest(name: str, known: Iterable[str], *, shown: int = 8) -> str:
    """The end of a message: ", did you mean 'x'?" if a known name is close, else a list of up to
    `shown` known names in parentheses."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f", did you mean '{close[0]}'?"
    more = ", ..." if len(known) > shown else ""
    return f" (known: {', '.join(known[:shown])}{more})"


def named_or_full(place: str) -> str:
    """A name unchanged, or the full path of a folder, normalised. Raises ValueError for a relative
    path: it would be hashed into the run id, but name another folder elsewhere."""
    if "/" not in place:
        return place
    if not place.startswith(("/", "~")):
        raise ValueError(
            f"'{place}' depends on the current folder, write the full path: "
            f"{os.path.abspath(place)}"
        )
    return os.path.normpath(place)


def at_home(path: str | Path) -> Path:
    """`path` with a leading '~' replaced by the home folder. Raises ConfigError if the user is
    unknown, or if the path is not valid UTF-8, so that configs and records could not name it."""
    shown = os.fsencode(path).decode(errors="replace")
    try:
        os.fspath(path).encode()
        return Path(path).expanduser()
    except UnicodeEncodeError:
        raise ConfigError(f"{shown}: the name of this path is not UTF-8 text") from None
    except RuntimeError:
        user = Path(path).parts[0]
        raise ConfigError(f"{shown}: no home folder of '{user}' is known") from None


Number = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]


class Part(BaseModel):
    """Base of every config object: frozen, hashable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced, unchecked, as pydantic makes it, in a fourth of the
        time: a config is frozen, and has neither private nor extra fields."""
        made = object.__new__(type(self))
        for name, value in (
            ("__dict__", self.__dict__ | dict(update or {})),
            ("__pydantic_fields_set__", self.__pydantic_fields_set__ | {*(update or {})}),
            ("__pydantic_extra__", None),
            ("__pydantic_private__", None),
        ):
            object.__setattr__(made, name, value)
        return made


def _plain(value: Any) -> Any:
    kind = type(value)  # isinstance takes ten times as long with Fraction, whose base is abstract
    if kind is float:
        return value + 0.0  # -0.0 equals 0.0, so both must give the same id
    if kind is tuple:
        return [_plain(item) for item in value]
    if kind is Strength:
        return in_255ths(value.number)
    return in_255ths(value) if kind in (Fraction, Exact) else value


@cache
def _defaults(model: type[Part]) -> tuple[tuple[str, Any, Any], ...]:
    # Reading pydantic's field table is slow, and ids are computed for up to 100,000 configs.
    return tuple((name, f.default, _plain(f.default)) for name, f in model.model_fields.items())


def delta_of(part: Part) -> dict[str, Any]:
    """The fields of a config that differ from their defaults, as plain nested data."""
    changed: dict[str, Any] = {}
    given = part.__dict__
    for name, default, plain in _defaults(type(part)):
        value = given[name]
        if value is default:
            continue
        if isinstance(value, Part):
            found = delta_of(value)
            if found or value != default:
                changed[name] = found
        elif value != default:
            # `norm` is hashed as its own field: a strength equals the default if its number does.
            found = _plain(value)
            if found != plain:
                changed[name] = found
    return changed


encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Canonical JSON of plain data, which ids hash."""


def digest(part: Part) -> str:
    return hashed(delta_of(part))


def hashed(delta: Mapping[str, Any]) -> str:
    """The 16 hex digits of an id."""
    text = encode([SCHEMA, delta])
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


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value for each field of a config as plain nested data."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        # dict, not Mapping: that check takes ten times as long, a second for 10,000 runs.
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def problems(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """A validation error as (dotted key, one-line message) pairs; an unknown key with the nearest
    known one."""
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

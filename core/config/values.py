"""What configs are made of: numbers, errors that say where, and identity by delta.

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
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from core.config.strength import Strength, in_255ths, no_bool
from core.errors import ConfigError

SCHEMA = 1
"""Version of the identity. Bump it when a default or the meaning of a field changes."""


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


Number = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]


class Part(BaseModel):
    """Base of every config object: frozen, hashable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Strength):
        return in_255ths(value.number)
    if isinstance(value, Fraction):
        return in_255ths(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    # -0.0 equals 0.0, so both must give one id.
    return value + 0.0 if isinstance(value, float) else value


@cache
def _defaults(model: type[Part]) -> tuple[tuple[str, Any, Any], ...]:
    # Reading pydantic's field table is slow; ids are computed for 100,000 configs at a time.
    return tuple((name, f.default, _plain(f.default)) for name, f in model.model_fields.items())


def delta_of(part: Part) -> dict[str, Any]:
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
            # The norm is a field itself: a strength of the default's number is the default in any
            # norm.
            found = _plain(value)
            if found != plain:
                changed[name] = found
    return changed


encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""The one text of plain data, of which ids are hashes."""


def digest(part: Part) -> str:
    return hashed(delta_of(part))


def hashed(delta: Mapping[str, Any]) -> str:
    """The 16 hex of an id."""
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

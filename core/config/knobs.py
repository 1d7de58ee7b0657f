"""What a config stores about the user's own code: keyword arguments, and digests of its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

Value = str | int | float | bool | tuple[str | int | float | bool, ...]
Pairs = tuple[tuple[str, Any], ...]


def _knob(name: object, value: object) -> Value:
    """A value in its stored form, in which 2.0 becomes 2. Raises ValueError."""
    if isinstance(value, list | tuple):
        items = tuple(_knob(name, item) for item in value)
        if not any(isinstance(item, tuple) for item in items):
            return items  # type: ignore[return-value]  # a list of lists raises below
    elif isinstance(value, str | bool | int):
        return value
    elif isinstance(value, float):
        return int(value) if value.is_integer() else value
    raise ValueError(f"{name}: expected a number, a text, or a list of them, got {value!r}")


def _in_order(given: object) -> Pairs:
    """A mapping or (name, value) pairs, as pairs sorted by name. Raises ValueError."""
    if not isinstance(given, Mapping | tuple):
        raise ValueError(f"expected a mapping of keyword arguments, got {given!r}")
    return tuple(sorted((str(name), _knob(name, value)) for name, value in dict(given).items()))


def _plain(pairs: Pairs) -> dict[str, Any]:
    return {name: [*value] if isinstance(value, tuple) else value for name, value in pairs}


Knobs = Annotated[Pairs, BeforeValidator(_in_order), PlainSerializer(_plain, return_type=dict)]
"""Keyword arguments for an object of the user's, as (name, value) pairs sorted by name; in files, a
mapping."""
Code = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_in_order),
    PlainSerializer(dict, return_type=dict),
]
"""(import path, digest) pairs of the user's own code that a run uses; in files, a mapping."""

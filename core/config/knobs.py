"""What a config stores of own code: its keyword arguments, and the digests of its sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

Value = str | int | float | bool | tuple[str | int | float | bool, ...]
Pairs = tuple[tuple[str, Any], ...]


def _knob(name: object, value: object) -> Value:
    """One value as it is stored: 2.0 and 2 are one. Raises ValueError."""
    if isinstance(value, list | tuple):
        items = tuple(_knob(name, item) for item in value)
        if not any(isinstance(item, tuple) for item in items):
            return items  # type: ignore[return-value]  # a list of lists goes on to the error
    elif isinstance(value, str | bool | int):
        return value
    elif isinstance(value, float):
        return int(value) if value.is_integer() else value
    raise ValueError(f"{name}: expected a number, a text, or a list of them, got {value!r}")


def _in_order(given: object) -> Pairs:
    """A mapping (or pairs) in one order."""
    if not isinstance(given, Mapping | tuple):
        raise ValueError(f"expected a mapping of keyword arguments, got {given!r}")
    return tuple(sorted((str(name), _knob(name, value)) for name, value in dict(given).items()))


def _plain(pairs: Pairs) -> dict[str, Any]:
    return {name: [*value] if isinstance(value, tuple) else value for name, value in pairs}


Knobs = Annotated[Pairs, BeforeValidator(_in_order), PlainSerializer(_plain, return_type=dict)]
"""Keyword arguments for an own object, as (name, value) pairs in order of names; a mapping in
files."""
Code = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_in_order),
    PlainSerializer(dict, return_type=dict),
]
"""(import path, digest) pairs of the own code that is used; a mapping in files."""

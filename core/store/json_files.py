"""JSON and JSONL files: written atomically, read with a check of their shape.

An incomplete last line of a JSONL file counts as not written. Anything else wrong is damage, and
is reported with the file's path.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from core.errors import DamagedError
from core.store.files import present, write_text
from core.store.shapes import AnyObject

log = logging.getLogger("epsweep")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically replace `path` by one JSON object."""
    write_text(path, json_text(value))


def json_text(value: Mapping[str, Any]) -> str:
    """The file content for a JSON object, indented."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Atomically replace `path` by JSON objects, one per line."""
    write_text(path, jsonl_text(rows))


def jsonl_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The file content for JSON objects, one per line."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def read_json(path: Path, shape: object = AnyObject) -> dict[str, Any] | None:
    """The object in `path`, None if there is no such file. shape: a type of core.store.shapes.

    Raises DamagedError.
    """
    text = present(path.read_bytes)
    return None if text is None else parse_json(text, path, shape)


def read_jsonl(path: Path, shape: object = AnyObject) -> list[dict[str, Any]]:
    """The rows of `path` without an incomplete last one, [] if there is no such file. Raises
    DamagedError."""
    lines = _lines(path)
    # Parsing all as one array takes half the time; line by line tells which one is damaged.
    with suppress(ValueError, RecursionError):
        rows: list[dict[str, Any]] = json.loads(b"[%b]" % b",".join(lines))
        if len(rows) == len(lines) and _all_fit(rows, shape):
            return rows
    return [parse_json(line, path, shape) for line in lines]


def salvage(path: Path, shape: object = AnyObject) -> list[dict[str, Any] | None]:
    """The rows of `path`, with None for each damaged one; each of these is logged once."""
    rows: list[dict[str, Any] | None] = []
    for line in _lines(path):
        try:
            rows.append(parse_json(line, path, shape))
        except DamagedError as error:
            warn_once(f"{error}; this row is left out")
            rows.append(None)
    return rows


@cache
def warn_once(text: str) -> None:
    """Log a warning unless this process has already logged the same text."""
    log.warning("%s", text)


def _lines(path: Path) -> list[bytes]:
    *whole, last = (present(path.read_bytes) or b"").split(b"\n")
    lines = [line for line in whole if line.strip()]
    return lines if _is_torn(last) else [*lines, last]


def _is_torn(last: bytes) -> bool:
    """Whether what follows the last line break is empty or an incomplete object."""
    if not last.startswith(b"{"):
        return not last
    try:
        json.loads(last)
    except ValueError:
        return True
    return False


def parse_json(text: bytes, path: Path, shape: object = AnyObject) -> dict[str, Any]:
    """The object in `text`, which was read from `path`. Raises DamagedError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise DamagedError(path, f"not complete JSON ({error})") from None
    problem = misfit(value, shape)
    if problem:
        raise DamagedError(path, problem)
    checked: dict[str, Any] = value
    return checked


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _all_fit(values: list[Any], shape: Any) -> bool:
    """Whether all of `values` match a shape."""
    if not all(isinstance(value, dict) for value in values):
        return False
    try:
        _adapter(list[shape]).validate_python(values, strict=True)
    except ValidationError:
        return False
    return True


def misfit(value: object, shape: object) -> str | None:
    """Why `value` does not match a shape ('rows.0.n: field required'); None if it does."""
    if not isinstance(value, Mapping):
        return f"expected an object, got {type(value).__name__}"
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return None

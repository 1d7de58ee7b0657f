"""Turns pydantic's errors about a profile into messages for users."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from core.config.document import Document, Place, dotted

_EXPECTED = {  # pydantic's error types -> words for messages
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_UNITS = {"_min": " of minutes", "_s": " of seconds", "_gb": " of gigabytes"}


def note(
    error: ValidationError, read: Document, unknown: Callable[[Place], str], *, missing: str
) -> None:
    """Note one problem per fault in `read`: what came, what was expected. unknown: returns the
    message for an unknown key; missing: the message for a missing one."""
    faults: dict[Place, list[ErrorDetails]] = {}  # each member of a union reports its own error
    for detail in error.errors():
        path = tuple(key for key in detail["loc"] if key != "[key]")
        while path and path not in read.places and detail["type"] != "missing":
            path = path[:-1]
        faults.setdefault(path, []).append(detail)
    for path, details in faults.items():
        for fault in _problem(path, details, unknown, missing).splitlines():
            # Messages about several keys begin with their key.
            at = path or tuple(fault.partition(": ")[0].split("."))
            read.problem(at, f"{dotted(path)}: {fault}" if path else fault)


def _problem(
    path: Place, details: list[ErrorDetails], unknown: Callable[[Place], str], missing: str
) -> str:
    first = details[0]
    came = repr(first["input"])[:60]
    kinds = [_EXPECTED[d["type"]] for d in details if d["type"] in _EXPECTED]
    match first["type"]:
        case "extra_forbidden":
            return unknown(path)
        case "missing":
            return missing
        case "value_error":
            return str(first["ctx"]["error"])
        case "literal_error" if not kinds:
            allowed = re.findall(r"'(\w+)'", first["ctx"]["expected"])
            near = did_you_mean(came.strip("'"), allowed)
            return f"expected one of {', '.join(allowed)}, got {came}{near}"
        case _ if kinds:
            unit = next((u for end, u in _UNITS.items() if str(path[-1]).endswith(end)), "")
            return f"expected {' or '.join(kinds)}{unit}, got {came}"
        case _:
            return f"got {came}: {first['msg']}"


def did_you_mean(word: str, valid: list[str]) -> str:
    near = get_close_matches(word, valid, n=1)
    return f", did you mean {near[0]!r}?" if near else ""

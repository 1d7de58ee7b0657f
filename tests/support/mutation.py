"""Texts that are nearly right: a valid one with a few things done to it that people, editors, disks
and attackers do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

VALUES = (
    *(
        "0",
        "-1",
        "1",
        "010",
        "1_000",
        "1e3",
        "1e999",
        "-1e-999",
        "9" * 30,
        "9" * 400,
        ".inf",
        ".nan",
    ),
    *("12:00:00", "0x1f", "2024-01-31", "yes", "no", "null", "~", "true", "''", '""', "[]", "{}"),
    *("[1, 2]", "{a: 1}", "[[[]]]", "${name}", "${base}", "${oc.env:HOME}", "${", "&a [*a]", "*a"),
    *(
        "!!int x",
        "!!set {a}",
        "|",
        ">",
        "- x",
        "? x",
        "4/255",
        "4/0",
        "0..9/0",
        "1/3",
        "inf",
        "nan",
    ),
    *("a\tb", "\x00", "\x07", "\ud7ff", "\ufffe", "\u2028", "caf\u00e9", "\u0663", "%", "{{", "\\"),
    *("[/x]", "[red]", "../..", "/", "~nosuchuser/x", "x" * 300, "\U0001f600", "'", '"', "#", ":"),
)
WORD = re.compile(r"[^\s\[\]{},:#'\"]+")


def mutated(text: str, chance: random.Random, times: int = 3) -> str:
    """`text` after one to `times` changes."""
    for _ in range(chance.randint(1, times)):
        text = chance.choice(CHANGES)(text, chance)
    return text


def _span(text: str, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(text) + 1)
    return start, min(len(text), start + chance.choice((1, 2, 5, 20, 100)))


def _cut(text: str, chance: random.Random) -> str:
    start, end = _span(text, chance)
    return text[:start] + text[end:]


def _end(text: str, chance: random.Random) -> str:
    return text[: chance.randrange(len(text) + 1)]


def _copy(text: str, chance: random.Random) -> str:
    (start, end), at = _span(text, chance), chance.randrange(len(text) + 1)
    return text[:at] + text[start:end] + text[at:]


def _insert(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(VALUES) + text[at:]


def _replace(text: str, chance: random.Random) -> str:
    words = [*WORD.finditer(text)]
    if not words:
        return text
    word = chance.choice(words)
    other = chance.choice(VALUES) if chance.random() < 0.7 else chance.choice(words)[0]
    return text[: word.start()] + other + text[word.end() :]


def _lines(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if lines:
        moved = lines.pop(chance.randrange(len(lines)))
        for _ in range(chance.choice((0, 1, 2))):
            lines.insert(chance.randrange(len(lines) + 1), moved)
    return "".join(lines)


CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(_cut, _end, _copy, _insert, _lines),
    *(_replace, _replace, _replace),
)

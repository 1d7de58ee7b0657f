"""What other libraries raise, and what other programs wrote, as one line for people."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 300
"""Characters of a message that are kept: some print whole tensors."""
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""Colours and bold face, which torch puts into some messages."""


def first_line(error: BaseException) -> str:
    """The first line of a message, with the next one if it ends in a colon ("Error(s) in loading
    state_dict for ResNet:" says nothing alone); the type's name if there is no message."""
    lines = [line.strip() for line in ESCAPES.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:LONGEST]


def beginning(file: Path) -> str:
    """What a file of the wrong kind is, by its first bytes: "begins with '<html>404'"."""
    try:
        with open(file, "rb") as content:
            start = content.read(40)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; run: git lfs pull"
    text = start.decode("ascii", "replace").splitlines()[0]
    return f"begins with {text!r}" if text.isprintable() and "\ufffd" not in text else "binary data"

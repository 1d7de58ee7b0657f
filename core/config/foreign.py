"""What other libraries raise, and what other programs wrote, as one line for people."""

from __future__ import annotations

import re
from pathlib import Path

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""Colours and bold face, which torch puts into some messages."""


def first_line(error: BaseException) -> str:
    """The first line of a message; the type's name if there is none."""
    text = ESCAPES.sub("", str(error)).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


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

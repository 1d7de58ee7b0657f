"""Output that every terminal can show: characters its encoding lacks, brackets in help texts."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from io import TextIOWrapper

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

PLAIN = {
    "\u2026": ".",
    "\u2013": "-",
    "\u2014": "-",
    "\u2192": ">",
    "\u00b1": "+-",
    "\u00d7": "x",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2022": "*",
    "\u2212": "-",
    "\u2265": ">=",
    "\u2264": "<=",
    "\u00b7": ".",
    "\u03b5": "eps",
    "\u0394": "delta",
}


def fit_encoding() -> None:
    """Make every text printable in the terminal's encoding: characters it lacks are spelled in
    ASCII, and undecodable bytes of file names pass unchanged."""
    codecs.register_error("epsweep.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="epsweep.plain")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if all("\udc80" <= letter <= "\udcff" for letter in lacking):
        return bytes(ord(letter) - 0xDC00 for letter in lacking), error.end
    return "".join(map(_spelled, lacking)), error.end


def _spelled(letter: str) -> str:
    if letter in PLAIN:
        return PLAIN[letter]
    if "\u2500" <= letter <= "\u257f":  # lines of tables and bars
        return "-" if letter in "\u2500\u2501\u2574\u2576\u2578\u257a\u257e" else "|"
    if "\u2580" <= letter <= "\u259f":  # blocks
        return "#"
    basic = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return basic or "?"


def literal(app: typer.Typer) -> TyperGroup | TyperCommand:
    """The command of `app` with its help texts escaped: rich would take '[default: x]' for markup
    and drop it."""
    command = get_command(app)
    assert isinstance(command, TyperGroup | TyperCommand)
    _escape(command)
    return command


def _escape(command: TyperGroup | TyperCommand) -> None:
    paragraphs = (command.help or "").split("\n\n")
    command.help = escape("\n\n".join(" ".join(text.split()) for text in paragraphs)) or None
    for parameter in command.params:
        if text := getattr(parameter, "help", None):
            parameter.help = escape(text)  # type: ignore[attr-defined]
    for inner in getattr(command, "commands", {}).values():
        _escape(inner)

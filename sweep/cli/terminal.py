"""Output that every terminal can show: characters its encoding lacks, brackets in help texts,
mistakes in one line."""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from io import TextIOWrapper
from typing import Any, cast

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from core.config import nearest

UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])
"""Every mistake on the command line. From newer releases typer exports only this child of it."""
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


def mistake(error: Any) -> str:
    """A UsageError in one line: where, what came, what was expected, the nearest name. '' if typer
    has shown the help instead."""
    said = " ".join(error.format_message().split()).removesuffix(".")
    command = error.ctx.command if error.ctx else None
    if found := re.match(r"Invalid value(?: for '?(.+?)'?)?: (?:Value error, )?(.*)", said):
        told = _expected(found[2], error.__cause__)
        said = f"{found[1]}: {told}" if found[1] else told
    elif command and (found := re.match(r"No such (option|command):? '?([\w-]+)", said)):
        known = [option for parameter in command.params for option in parameter.opts]
        known = [option for option in known if option.startswith("-")]
        known = known if found[1] == "option" else list(command.commands)
        said = f"unknown {found[1]} '{found[2]}'{nearest(found[2], known)}"
    elif not said:
        return ""
    place = error.ctx.command_path if error.ctx else "sweep"
    return f"{place}: {said[0].lower()}{said[1:]}; see: {place} -h"


def _expected(told: str, cause: Any) -> str:
    """What a bad value's message says, in the words of our others."""
    if found := re.match(r"'(.*)' is not one of (.*)", told):
        known = re.findall(r"'([^']+)'", found[2])
        return f"unknown value '{found[1]}'{nearest(found[1], known)}"
    given = f", got '{cause.errors()[0]['input']}'" if hasattr(cause, "errors") else ""
    told = re.sub(r"^Input should be (greater|less)", r"expected a number \1", told)
    return re.sub(r"^Input should be (.*?)(, unable to.*)?$", r"expected \1", told) + given

"""A table as text: Markdown, CSV, LaTeX (booktabs), or for a terminal."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.box import HORIZONTALS
from rich.text import Text

from analysis.tables import DAGGER, DOUBLE_DAGGER, PLUS_MINUS, Entry, Table
from core.sheet import Sheet

LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{char: f"{{{char}}}" for char in "[]*"},  # directly after \\ these would be arguments
    "|": r"\textbar{}",
    "\n": " ",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    PLUS_MINUS: r"$\pm$",
    DAGGER: r"$^\dagger$",
    DOUBLE_DAGGER: r"$^\ddagger$",
    "\N{EN DASH}": "--",
    "<": "$<$",
    ">": "$>$",
}


def markdown(table: Table) -> str:
    """A pipe table with its title above and its notes below."""
    head = [*table.stub, *(" ".join(levels) for levels in table.header)]
    lines = [f"**{_plain(table.title)}**", "", _pipes(map(_plain, head))]
    lines.append("|" + ":--|" * len(table.stub) + "--:|" * len(table.header))
    for labels, entries in table.rows:
        lines.append(_pipes([*map(_plain, labels), *map(_markdown_entry, entries)]))
    notes = (f"- {_plain(note)}" for note in table.notes)
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _plain(text: str) -> str:
    """Text escaped for a Markdown table: no HTML, and nothing that ends the cell or the line."""
    escaped = html.escape(text.replace("\\", "\\\\"), quote=False).replace("|", "\\|")
    return " ".join(escaped.splitlines())


def _pipes(fields: Iterable[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _markdown_entry(entry: Entry) -> str:
    text = _plain(entry.text)
    return (f"**{text}**" if entry.bold else text) + entry.mark


NUMBER = re.compile(
    rf"[+-]?\d+(\.\d+)?(e[+-]?\d+)?( {PLUS_MINUS} [\d.]+)?"
    rf"( \(\d+/\d+\))?[{DAGGER}{DOUBLE_DAGGER}]*",
    re.IGNORECASE,
)
"""Matches numbers of tables: -1.20, or 45.12 with spread, count of seeds and marks."""


def unformulated(text: str) -> str:
    """Text for a CSV cell that no spreadsheet takes for a formula: text that begins like one gets
    an apostrophe in front; numbers stay as they are."""
    line = " ".join(text.split("\r"))  # csv leaves a carriage return unquoted, which ends the line
    formula = line.lstrip()[:1] in FORMULA and not NUMBER.fullmatch(line)
    return f"'{line}" if formula else line


FORMULA = ("=", "+", "-", "@")


def comma_separated(table: Table) -> str:
    """The table as CSV: one header line, numbers as printed, without bold and notes."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    rows = [[*table.stub, *(" ".join(levels) for levels in table.header)]]
    rows += [[*labels, *(entry.text + entry.mark for entry in es)] for labels, es in table.rows]
    writer.writerows(map(unformulated, row) for row in rows)
    return file.getvalue()


def latex(table: Table) -> str:
    """A booktabs table; needs \\usepackage{booktabs} and graphicx (for wide tables)."""
    stub, width = len(table.stub), len(table.header)
    depth = len(table.header[0]) if table.header else 1
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        # Without our number: LaTeX numbers tables itself.
        f"\\caption{{{escape(re.sub(r'^Table [0-9]+: ', '', table.title))}}}",
        "\\smallskip",
        f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n"
        f"\\begin{{tabular}}{{{'l' * stub}{'r' * width}}}",
        "\\toprule",
    ]
    for level in range(depth):
        lines += _latex_level(table, level, last=level == depth - 1)
    lines.append("\\midrule")
    previous = ""
    for labels, entries in table.rows:
        if previous and labels[0] != previous and stub > 1 and table.grouped:
            lines.append("\\midrule")
        same = labels[0] == previous and stub > 1 and table.grouped
        shown = "" if same else escape(labels[0])
        previous = labels[0]
        fields = [shown, *map(escape, labels[1:]), *map(_latex_entry, entries)]
        lines.append(" & ".join(fields) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}"]
    if table.notes:
        lines += ["", "\\smallskip", "\\raggedright\\footnotesize"]
        lines += [escape(note) + "\\par" for note in table.notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _latex_level(table: Table, level: int, *, last: bool) -> list[str]:
    """The lines of one header level; a label that spans columns is set once, with a rule below."""
    if last:
        names = [escape(name) for name in table.stub]
        return [" & ".join([*names, *(escape(levels[-1]) for levels in table.header)]) + " \\\\"]
    fields, rules = [""] * len(table.stub), []
    at = len(table.stub) + 1
    for levels, group in groupby(table.header, key=lambda levels: levels[: level + 1]):
        span = len(list(group))
        fields.append(f"\\multicolumn{{{span}}}{{c}}{{{escape(levels[-1])}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + span - 1}}}")
        at += span
    return [" & ".join(fields) + " \\\\", " ".join(rules)]


def _latex_entry(entry: Entry) -> str:
    text = escape(entry.text)
    return (f"\\textbf{{{text}}}" if entry.bold else text) + escape(entry.mark)


def escape(text: str) -> str:
    """Plain text escaped for LaTeX; eps_g becomes the symbol."""
    parts = re.split(r"\beps_g\b", text)
    return r"$\epsilon_g$".join("".join(LATEX.get(c, c) for c in part) for part in parts)


def terminal(table: Table) -> Sheet:
    """The table for a rich console, with rules between groups of rows."""
    title, notes = Text(table.title, "bold"), Text("\n".join(table.notes))
    look: Any = {"box": HORIZONTALS, "pad_edge": True, "header_style": "table.header"}
    look |= {"caption_justify": "left", "stub": len(table.stub)}
    shown = Sheet(*table.stub, title=title, caption=notes, **look)
    for *upper, last in table.header:  # breaks before '(', so that counts of images go below names
        lines = (level.replace(" (", "\n(") for level in upper)
        shown.add_column("\n".join([*lines, last]), justify="right")
    last = ""
    for labels, entries in table.rows:
        if last and labels[0] != last and table.grouped:
            shown.add_section()
        first = "" if labels[0] == last and table.grouped else labels[0]
        last = labels[0]
        cells = [
            Text(entry.text + entry.mark, style="bold" if entry.bold else "") for entry in entries
        ]
        shown.add_row(first, *labels[1:], *cells)
    return shown


FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
}


def as_text(tables: Sequence[Table], form: str) -> str:
    """Tables one below the other. Several tables as CSV get their titles as lines between them."""
    return "\n".join(_titled(table, form, len(tables)) for table in tables)


def _titled(table: Table, form: str, count: int) -> str:
    if form != "csv" or count == 1:
        return FORMATS[form](table)
    title = unformulated(table.title).replace('"', '""')
    return f'"{title}"\n{FORMATS[form](table)}'

"""Tables on a terminal: no digit is ever cut off, whatever the width.

Columns of numbers keep their width, columns of text fold down to a minimum width, and columns that
still do not fit are printed below, with the leading columns repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

FLOOR = 24
"""Terminal cells to which a column of text may shrink; fewer if its longest word is shorter."""
NAMES = 0.6
"""The leading columns are folded only if they take more than this share of the width."""


class Sheet(Table):
    """A rich table whose right-justified columns are numbers. Cells are str or Text; markup in them
    is not interpreted.

    In a heading of several lines, the upper ones name a group: they are shown once for neighbouring
    columns that share them, and these columns stay together if they fit. `min_width` of a column of
    text is its minimum width; columns with 0 shrink first.
    """

    def __init__(self, *columns: str, stub: int = 1, **kwargs: Any) -> None:
        """columns: their headings; a '>' in front marks a column of numbers. stub: how many leading
        columns name the rows. Other arguments: see rich's Table; without a box by default."""
        super().__init__(**{"box": None, "pad_edge": False, "header_style": "bold", **kwargs})
        self.stub = stub
        for name in columns:
            right = name.startswith(">")
            self.add_column(name.removeprefix(">"), justify="right" if right else "left")

    def add_column(self, header: RenderableType = "", *args: Any, **kwargs: Any) -> None:
        super().add_column(_text(header), *args, **kwargs)

    def add_row(self, *cells: RenderableType | None, **kwargs: Any) -> None:
        super().add_row(*map(_text, cells), **kwargs)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = self._parts(options.max_width)
        for number, columns in enumerate(parts):
            part = Table(
                title=self.title if number == 0 else None,
                caption=self.caption if number == len(parts) - 1 else None,
                box=self.box,
                padding=self.padding,
                pad_edge=self.pad_edge,
                show_header=self.show_header,
                header_style=self.header_style,
                title_justify=self.title_justify,
                caption_justify=self.caption_justify,
            )
            part.columns = [replace(c, _index=i) for i, c in enumerate(columns)]
            part.rows = self.rows
            if number:
                yield ""
            yield part

    def _parts(self, width: int) -> list[list[Column]]:
        """The columns of the tables to print below each other, each with the stub."""
        stub, parts = self.columns[: self.stub], []
        part: list[Column] = []
        for group in self._groups(width):
            if part and not self._fits([*stub, *part, *group], width):
                parts.append(part)
                part = []
            part = [*part, *group]
        parts.append(part)
        return [self._fitted([*stub, *part], width) for part in parts]

    def _groups(self, width: int) -> Iterator[list[Column]]:
        """Neighbouring columns that share a group heading; one by one if the group is too wide."""
        stub, group = self.columns[: self.stub], list[Column]()
        for column in self.columns[self.stub :]:
            upper = _lines(column.header)[:-1]
            if group and not (any(upper) and upper == _lines(group[-1].header)[:-1]):
                yield from self._together(group, stub, width)
                group = []
            group.append(column)
        if group:
            yield from self._together(group, stub, width)

    def _together(
        self, group: list[Column], stub: Sequence[Column], width: int
    ) -> Iterable[list[Column]]:
        return [group] if self._fits([*stub, *group], width) else [[column] for column in group]

    def _fits(self, columns: Sequence[Column], width: int) -> bool:
        room = width - self._frame(len(columns))
        return sum(self._floors(_titled(columns), room)) <= room

    def _frame(self, count: int) -> int:
        """Terminal cells that padding and lines take with `count` columns."""
        _, right, _, left = self.padding
        lines = count + 1 if self.box else 0
        return count * (right + left) + lines - (0 if self.pad_edge else right + left)

    def _floors(self, columns: Sequence[Column], room: int) -> list[int]:
        """Minimum width of each column. Names, which users copy, keep their full width if that
        leaves enough for the rest."""
        names = [*map(_natural, columns[: self.stub])]
        short = sum(names) <= NAMES * room and not any(c.no_wrap for c in columns[: self.stub])
        rest = columns[len(names) :] if short else columns
        return [*(names if short else ()), *map(_floor, rest)]

    def _fitted(self, columns: Sequence[Column], width: int) -> list[Column]:
        """The columns, with headings and with widths that add up to at most `width`."""
        columns = _titled(columns)
        room = width - self._frame(len(columns))
        widths, floors = [*map(_natural, columns)], self._floors(columns, room)
        if sum(widths) <= room:
            return [_fixed(column, None) for column in columns]
        if sum(floors) > room:  # one column is too wide to stand beside the names: fold the names
            floors = [_natural(c) if c.justify == "right" else 1 for c in columns]
        while sum(widths) > room and widths != floors:
            able = [i for i, least in enumerate(floors) if widths[i] > least]
            widths[max(able, key=lambda i: (columns[i].min_width == 0, widths[i]))] -= 1
        return [_fixed(c, max(w, 1)) for c, w in zip(columns, widths, strict=True)]


def _fixed(column: Column, width: int | None) -> Column:
    if column.justify == "right":
        return replace(column, no_wrap=True, width=_natural(column))
    if width is None:
        return column
    overflow = column.overflow if column.no_wrap else "fold"
    return replace(column, width=width, min_width=None, overflow=overflow)


def _titled(columns: Sequence[Column]) -> list[Column]:
    """The columns with headings of equal height, group headings on their first column only."""
    found, previous = [], list[str]()
    for column in columns:
        *upper, last = _lines(column.header)
        shown = [""] * len(upper) if upper == previous else upper
        found.append([*shown, last])
        previous = upper
    height = max(map(len, found), default=0)
    texts = ["\n".join([""] * (height - len(lines)) + lines) for lines in found]
    return [replace(c, header=Text(text)) for c, text in zip(columns, texts, strict=True)]


def _natural(column: Column) -> int:
    """Width of a column's widest line in terminal cells."""
    cells = (column.header, *column.cells)
    widest = max((cell_len(line) for cell in cells for line in _lines(cell)), default=0)
    return max(widest, column.min_width or 0)


def _floor(column: Column) -> int:
    """Minimum width of a column in terminal cells."""
    natural = _natural(column)
    if column.justify == "right":
        return natural
    if column.min_width is not None:
        return min(natural, column.min_width)
    if column.no_wrap:
        return min(natural, FLOOR)
    words = (word for cell in (column.header, *column.cells) for word in _plain(cell).split())
    return min(FLOOR, max(map(cell_len, words), default=0))


def _text(cell: RenderableType | None) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell or ""))


def _plain(cell: RenderableType) -> str:
    return _text(cell).plain


def _lines(cell: RenderableType) -> list[str]:
    return _plain(cell).split("\n")

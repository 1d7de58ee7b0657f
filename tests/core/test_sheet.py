"""Tables on a terminal of any width: every digit is there, in a line with the name of its row."""

from __future__ import annotations

import io
import re

import pytest
from rich.box import HORIZONTALS
from rich.console import Console
from rich.text import Text

from core.sheet import Sheet

NUMBERS = [[f"{10 * row + column}.{column}7" for column in range(1, 7)] for row in (1, 2, 3)]


def shown(sheet: Sheet, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(sheet)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line.rstrip() for line in lines]


def numbers(box: object = None, names: tuple[str, ...] = ("one", "two", "three")) -> Sheet:
    sheet = Sheet(box=box, title="title", caption="notes")
    sheet.add_column("name")
    for dataset in ("Cars", "Dogs"):
        for metric in ("clean", "adv", "expected"):
            sheet.add_column(f"{dataset}\n(n = 512)\n{metric}", justify="right")
    for name, row in zip(names, NUMBERS, strict=True):
        sheet.add_row(name, *row)
    return sheet


@pytest.mark.parametrize("box", [None, HORIZONTALS])
@pytest.mark.parametrize("width", [24, 40, 56, 60, 80, 120])
def test_no_digit_is_cut_off(width: int, box: object) -> None:
    lines = shown(numbers(box), width)
    for name, row in zip(("one", "two", "three"), NUMBERS, strict=True):
        mine = [word for line in lines if line.split()[:1] == [name] for word in line.split()[1:]]
        assert mine == row


def test_groups_stay_together_and_are_named_once() -> None:
    lines = shown(numbers(), 44)
    assert [line.split() for line in lines if "Cars" in line or "Dogs" in line] == [
        ["Cars"],
        ["Dogs"],
    ]
    assert [line.split() for line in lines if "clean" in line] == [
        ["name", "clean", "adv", "expected"]
    ] * 2
    assert sum("title" in line for line in lines) == sum("notes" in line for line in lines) == 1


def test_what_fits_is_one_table() -> None:
    lines = shown(numbers(), 80)
    assert sum(line.split()[:1] == ["one"] for line in lines) == 1


def test_text_folds_before_numbers_are_moved() -> None:
    sheet = Sheet(box=None, pad_edge=False)
    sheet.add_column("name")
    sheet.add_column("n", justify="right")
    sheet.add_column("what is said")
    sheet.add_row("a", "1234567890", "many short words that may stand below each other")
    lines = shown(sheet, 40)
    assert "1234567890" in lines[1] and len(lines) > 3
    assert re.sub(r"\s+", " ", " ".join(lines)).count("many short words that may stand below") == 1


def test_long_names_give_way_only_at_the_end() -> None:
    name = "convnext_base.clip_laion2b_augreg_ft_in12k_in1k"
    wide = shown(numbers(names=(name, "two", "three")), 100)
    assert sum(name in line for line in wide) >= 1
    narrow = shown(numbers(names=(name, "two", "three")), 30)
    assert all(f"{number}" in " ".join(narrow) for row in NUMBERS for number in row)


def test_a_column_has_its_minimum_width_and_no_markup() -> None:
    sheet = Sheet(box=None, pad_edge=False)
    sheet.add_column("[bold]")
    sheet.add_column("line", min_width=20)
    sheet.add_row("[red]x[/red]", Text("0123456789 012345678"))
    lines = shown(sheet, 36)
    assert lines[0].startswith("[bold]") and lines[1].startswith("[red]x[/red]")
    assert "0123456789 012345678" in "\n".join(lines)

"""A real Chromium for the tests of pages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium() -> Iterator[Any]:
    """Skips the test if the machine has no browser."""
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page opened in a tab that listens for what goes wrong: messages of the console, errors of
    the script, requests to anywhere but `address`."""

    def __init__(self, browser: Any, address: Path | str, hash: str = "", **options: Any) -> None:
        self.address = address.as_uri() if isinstance(address, Path) else address
        self.page = browser.new_page(**options)
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(self.address + hash)
        self.page.wait_for_selector("body[data-ready]")

    def _request(self, request: Any) -> None:
        own = self.address.rpartition("/")[0]
        if not request.url.startswith((own, "data:", "blob:")):
            self.wrong.append(request.url)

    def choose(self, name: str, value: str) -> None:
        """An option of a select in the form of filters."""
        self.page.locator(f"select[name={name}]").select_option(value)

    def column(self, table: str, number: int) -> list[str]:
        """The first lines of a column's cells, counted from 1, of what a table shows."""
        cells = self.page.locator(f"#{table} tbody tr:not(.group, .detail) > :nth-child({number})")
        return [text.split("\n")[0] for text in cells.all_inner_texts()]

    def count(self, table: str) -> str:
        """'4 of 10 runs'."""
        return str(self.page.locator(f"#{table}-host .count").inner_text())


def unreadable(page: Any) -> list[tuple[str, str]]:
    """Colours of a page's texts and of what is behind them, where their contrast is too low."""
    pairs = page.evaluate(
        """() => [...document.querySelectorAll(
               "p, td, th, li, a, summary, label, caption, figcaption, button, .state, .count")]
             .filter((node) => node.textContent.trim() && !node.disabled)
             .map((node) => {
               let back = node;
               while (back && getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)")
                 back = back.parentElement;
               return [getComputedStyle(node).color,
                       getComputedStyle(back || document.body).backgroundColor];
             })"""
    )
    assert len(pairs) > 50
    return [(ink, back) for ink, back in {*map(tuple, pairs)} if contrast(ink, back) < 4.5]  # WCAG


def contrast(first: str, second: str) -> float:
    def light(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(first), light(second)))
    return (high + 0.05) / (low + 0.05)

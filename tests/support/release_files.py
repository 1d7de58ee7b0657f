"""Miniature releases in the place of real ones, and what prepares them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from core.config import ConfigError
from core.config.datasets import Entry, entries
from core.data import inputs, splits
from core.datasets import arrays, miniature
from core.store.folders import Store
from sweep.inputs import releases

SIZE = 16
NAMES = tuple(entries())
QUIET = Console(file=io.StringIO())


def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entry]:
    """A function that writes a miniature release and lets the registry expect exactly it."""
    known = dict(entries())
    monkeypatch.setattr(releases, "entries", lambda: known)
    for module in (arrays, splits, inputs):
        monkeypatch.setattr(module, "entries", lambda: known)

    def write(name: str, folder: Path) -> Entry:
        known[name] = miniature.write(name, folder)
        return known[name]

    return write


def prepare(name: str, source: Path | None, store: Store, size: int = SIZE) -> Path:
    return releases.prepare(name, source, size, store, QUIET)


def one_line(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as error:
        act()
    assert len(error.value.lines) == 1 and "\n" not in str(error.value)
    return str(error.value)


class Stopped(Exception):
    """Stands for a kill: nothing after it runs."""

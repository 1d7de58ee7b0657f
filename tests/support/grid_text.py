"""Grids from a text: their runs, or the mistakes that are found in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.config import ConfigError
from sweep.grid import Grid, parse_grid

BASE = "name: g\nbase: {backbone: swin, dataset: cars}\n"


def parse(text: str) -> Grid:
    return parse_grid(text, Path("g.yaml"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return list(caught.value.lines)


def field(grid: Grid, key: str) -> list[Any]:
    """One field of every run, in order."""
    found = []
    for run in grid.runs:
        value: Any = run.config
        for name in key.split("."):
            value = getattr(value, name)
        found.append(value)
    return found


def settings_of(grid: Grid) -> list[str]:
    return [run.setting for run in grid.runs]

"""Published measurements of the sister benchmark: few of them, in a file of their shape."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from analysis.guide.measurements import COLUMNS, KEYS

FFT, LP = "FFT (50 epochs)", "LP (50 epochs)"


def small(path: Path, change: Callable[[list[dict[str, Any]]], object] = lambda rows: None) -> str:
    """A file in the published shape: 2 backbones x 2 losses x 2 datasets, linear probes."""
    names = "resnet50.a1_in1k", "vit_base_patch16_224.mae"
    cells = product([LP], names, ["Classic AT", "TRADES"], ["stanford_cars", "flowers-102"])
    rows: list[dict[str, Any]] = [
        {**dict(zip(KEYS, cell, strict=True)), **dict.fromkeys(COLUMNS, (i + 1) / 10)}
        for i, cell in enumerate(cells)
    ]
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)

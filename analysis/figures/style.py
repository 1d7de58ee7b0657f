"""The one look of all figures: colours a colour-blind reader can tell apart, and how to save.

Settings also differ in line style and marker, so that nothing hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

RC: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "figure.dpi": 100,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
PANEL = (2.1, 1.75)
"""Width and height of one panel in inches."""
DPI = 200


Line = Literal["-", "--", "-.", ":"] | tuple[float, tuple[float, ...]]
"""A line style as matplotlib takes it: a name, or an offset and lengths of dashes and gaps."""


@dataclass(frozen=True)
class Look:
    """How one setting is drawn."""

    color: str
    line: Line = "-"
    marker: str = "o"


LOOKS = {
    "standard": Look("#666666", ":", "^"),
    "fix": Look("#D55E00", "--", "s"),
    "sched": Look("#0072B2", "-", "o"),
    "auto": Look("#009E73", "-.", "D"),
    "uniform": Look("#CC79A7", (0, (5, 1, 1, 1, 1, 1)), "v"),
}
OTHERS = ("#56B4E9", "#E69F00", "#000000", "#8C510A", "#762A83", "#1B7837")


def look(setting: str, others: Sequence[str] = ()) -> Look:
    """The look of a known setting; further ones take the remaining colours in order."""
    if setting in LOOKS:
        return LOOKS[setting]
    rank = list(others).index(setting) if setting in others else 0
    return Look(OTHERS[rank % len(OTHERS)], "-", "ox+*PX"[rank % 6])


@contextmanager
def styled() -> Iterator[None]:
    """The style for everything drawn inside; the caller's own settings come back afterwards."""
    with matplotlib.rc_context(RC):
        yield


def panels(count: int, columns: int, *, per_cell: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure and its axes of shape [rows, columns]: `count` cells of `per_cell` panels each,
    stacked; rows are filled from the left and what is left over is blank."""
    columns = min(columns, count)
    blocks = -(-count // columns)
    size = (PANEL[0] * columns + 0.4, PANEL[1] * blocks * per_cell + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(blocks * per_cell, columns, squeeze=False)
    for cell in range(count, blocks * columns):
        for k in range(per_cell):
            grid[(cell // columns) * per_cell + k, cell % columns].set_axis_off()
    return figure, grid


def mean_line(axes: Axes, frame: pd.DataFrame, x: str, y: str, style: Look) -> pd.Series:
    """The mean of `y` over seeds against `x`, every seed a thin line behind it; returns it."""
    mean = frame.groupby(x)[y].mean()
    if frame["seed"].nunique() > 1:
        for _, one in frame.groupby("seed"):
            axes.plot(one[x], one[y], color=style.color, linewidth=0.5, alpha=0.5)
    axes.plot(mean.index, mean.to_numpy(), color=style.color, linestyle=style.line)
    return mean


def key_line(setting: str, style: Look) -> Line2D:
    """The legend's entry of a setting."""
    return Line2D([], [], color=style.color, linestyle=style.line, label=setting)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.pdf and `stem`.png (200 dpi), the same bytes for the same figure."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(suffix) for suffix in (".pdf", ".png")]
    with styled():
        figure.savefig(paths[0], metadata={"CreationDate": None})
        figure.savefig(paths[1], dpi=DPI, metadata={"Software": None})
    return paths

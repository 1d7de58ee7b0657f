"""The common style of all figures, with colours that colour-blind readers can distinguish.

Settings also differ in line style and marker, so that colour is never the only difference.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from analysis.names import settings_in_order
from core.config import Strength
from core.store.files import write_atomic

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
"""Width and height of one panel, in inches."""
CHARACTERS = 28
"""That fit above one panel."""
DPI = 200
WIDEST = 6
"""Maximum number of entries per line of a legend."""
UNDER = 28
"""Distance of a legend below a panel from it, in points: the axis and its label are between."""


Line = Literal["-", "--", "-.", ":"] | tuple[float, tuple[float, ...]]
"""A matplotlib line style: a name, or an offset and the lengths of dashes and gaps."""


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
OTHERS = ("#56B4E9", "#E69F00", "#000000", "#8C510A", "#762A83", "#1B7837", "#882255")
DASHES: tuple[Line, ...] = ("-", "--", "-.", ":")
MARKERS = "os^DvPX*"


Looks = dict[str, Look]


def looks(settings: Iterable[str]) -> Looks:
    """Setting -> look, in the order of the legend: the presets have fixed looks, others those of
    OTHERS in turn."""
    found: Looks = {}
    others = 0
    for name in settings_in_order(settings):
        if name in LOOKS:
            found[name] = LOOKS[name]
        else:
            color = OTHERS[others % len(OTHERS)]
            found[name] = Look(color, DASHES[others % len(DASHES)], MARKERS[others % len(MARKERS)])
            others += 1
    return found


@contextmanager
def styled() -> Iterator[None]:
    """Context manager: draw in our style; on exit, matplotlib's settings are restored."""
    with matplotlib.rc_context(RC):
        yield


def blocks(count: int, columns: int, *, rows: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure with `count` stacks of `rows` panels each, filled line by line from the left, and
    its axes, shape [rows * lines, columns]. Places without a stack are blank."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure, grid = matrix(lines * rows, columns)
    for stack in range(count, lines * columns):
        for row in range(rows):
            grid[(stack // columns) * rows + row, stack % columns].set_axis_off()
    return figure, grid


def matrix(
    rows: int, columns: int, *, panel: tuple[float, float] = PANEL
) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels, and its axes, shape [rows, columns]. panel: (width, height) in
    inches."""
    size = (panel[0] * max(columns, 2) + 0.4, panel[1] * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def legend(
    figure: Figure, styles: Looks, strength: Strength | None = None, *, onset: bool = False
) -> None:
    """Add a legend of the settings above all panels, with eps_g as its title. onset: with an entry
    for the marker of adaptation."""
    lines = [key_line(name, style) for name, style in styles.items()]
    if onset:
        dot = Line2D([], [], color="black", marker="o", linestyle="", label="adaptation begins")
        lines.append(dot)
    title = f"$\\epsilon_g$ = {strength}" if strength else None
    above(figure, lines, title)


def above(figure: Figure, entries: Sequence[Artist], title: str | None = None) -> None:
    """Add a legend above all panels, with as many entries per line as fit into the figure."""
    for columns in range(min(len(entries), WIDEST), 0, -1):
        place: Any = {"loc": "outside upper center", "ncols": columns}
        drawn = figure.legend(handles=entries, title=title, **place)
        if drawn.get_window_extent().width <= figure.bbox.width:
            return
        if columns > 1:
            drawn.remove()


def below(axes: Axes, entries: Sequence[Artist], title: str) -> None:
    """Add a legend in two columns below a panel and its label, where it covers no curve. See
    `make_room`."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    down = ScaledTranslation(0, -UNDER / 72, figure.dpi_scale_trans)
    axes.legend(
        handles=entries,
        title=title,
        ncols=2,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.0,
        title_fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=axes.transAxes + down,
    )


def make_room(figure: Figure, lines: int, entries: int) -> None:
    """Grow a figure for legends `below` the panels of `lines` rows, with `entries` each."""
    figure.set_figheight(figure.get_figheight() + lines * 0.17 * (1 + -(-entries // 2)))


def pair_title(pair: Sequence[str]) -> str:
    """The title of a panel about a backbone and a dataset: on two lines if one is too narrow."""
    return textwrap.fill(", ".join(pair), CHARACTERS, break_long_words=False)


def mean_line(axes: Axes, frame: pd.DataFrame, x: str, y: str, style: Look) -> pd.Series:
    """Draw the mean of `y` over seeds against `x`, with every seed as a thin line behind it;
    returns the mean, indexed by `x`."""
    mean = frame.groupby(x)[y].mean()
    if frame["seed"].nunique() > 1:
        for _, one in frame.groupby("seed"):
            axes.plot(one[x], one[y], color=style.color, linewidth=0.5, alpha=0.5)
    axes.plot(mean.index, mean.to_numpy(), color=style.color, linestyle=style.line)
    return mean


def key_line(setting: str, style: Look) -> Line2D:
    """The legend's entry for a setting."""
    return Line2D([], [], color=style.color, linestyle=style.line, label=setting)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.pdf and `stem`.png (200 dpi), with the same bytes for the same figure. Raises
    OSError, and leaves no partial file if the disk is full."""
    paths = [stem.with_suffix(suffix) for suffix in (".pdf", ".png")]
    vector, pixels = io.BytesIO(), io.BytesIO()
    with styled():
        figure.savefig(vector, format="pdf", metadata={"CreationDate": None})
        figure.savefig(pixels, format="png", dpi=DPI, metadata={"Software": None})
    for path, drawing in zip(paths, (vector, pixels), strict=True):
        write_atomic(path, lambda file, drawing=drawing: file.write(drawing.getvalue()))  # type: ignore[misc]
    return paths

"""One HTML page about images under attack: pixels, predictions, the images that one run keeps and
another loses, and which class is taken for which.

A `Subject` and its images as the networks see them -> `write`. The page contains all of its
pictures, loads nothing and has no script.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from analysis.names import dataset_name
from analysis.report.confusion import Confusion
from analysis.report.pictures import Judged, Subject
from core.store.files import write_text

Array = NDArray[Any]
SMALL = 64
"""Images of at most this many pixels a side are enlarged without smoothing."""
FEW = 16
"""With at most this many classes a confusion is shown as a table of numbers, with more as a map."""
MISTAKES = 10
"""Number of mistakes listed beside a map."""
LEGIBLE = 256
"""Smallest side of a map for W&B, in pixels."""
INK = (68, 138, 220)
"""Colour of maps, legible on light and on dark pages."""


class Looked(NamedTuple):
    """A subject's images (its `rows`) as the networks see them. clean: uint8 [N, 3, H, W]; seen:
    for each run (predicted [1 + S, N], those of the clean images first; attacked [S, N, 3, H, W] in
    [0, 1]); names: of the classes, [] if they are only numbered."""

    clean: Array
    seen: Sequence[tuple[Array, Array]]
    names: Sequence[str]


class Attacked(NamedTuple):
    """One image under one attack. change, image: pictures as data URLs; factor: by which the change
    is scaled."""

    change: str
    factor: str
    image: str
    predicted: str
    right: bool
    alt: str


class Line(NamedTuple):
    """One image as one run sees it."""

    run: str
    predicted: str
    right: bool
    attacked: list[Attacked]


class Shown(NamedTuple):
    """One image, with a line for each run."""

    place: int
    image: str
    label: str
    lines: list[Line]


def write(subject: Subject, looked: Looked, path: Path) -> Path:
    """Write the page and return its path."""
    environment = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("pictures.css").render()
    album = Album(subject, looked)
    mine = subject.judged[0]
    text = environment.get_template("pictures.html.j2").render(
        style=style,
        digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        subject=subject,
        dataset=dataset_name(mine.config.dataset),
        attack=f"APGD with {subject.steps} steps",
        size="small" if looked.clean.shape[-1] <= SMALL else "large",
        first=album.shown(subject.first),
        pairs=[
            (
                other,
                subject.tallies(other),
                album.shown(subject.kept(mine, other)),
                album.shown(subject.kept(other, mine)),
            )
            for other in subject.judged[1:]
        ],
        confusions=[(one.name, _confusion(one, subject, looked.names)) for one in subject.judged],
    )
    write_text(path, text)
    return path


class Album:
    """The pictures of a subject's images."""

    def __init__(self, subject: Subject, looked: Looked) -> None:
        self.subject, self.looked = subject, looked
        self._at = {row: number for number, row in enumerate(subject.rows)}

    def shown(self, rows: Sequence[int]) -> list[Shown]:
        return [self._shown(row) for row in rows]

    def captioned(self, run: int) -> Iterator[tuple[Array, str]]:
        """Yields images [H, W, 3] of one run, each with a caption: clean ones, changes and attacked
        ones."""
        predicted, attacked = self.looked.seen[run]
        for row, at in self._at.items():
            name = f"image {self.subject.index[row]}, {self._name(self.subject.label[row])}"
            taken = [f"taken for {self._name(number)}" for number in predicted[:, at]]
            yield np.moveaxis(self.looked.clean[at], 0, -1), f"{name}: {taken[0]}"
            for level, strength in enumerate(self.subject.shown):
                change, factor = self._change(run, level, at)
                yield change, f"{name} at {strength}: change, times {factor}"
                yield _pixels(attacked[level, at]), f"{name} at {strength}: {taken[level + 1]}"

    def confused(self, run: int) -> Iterator[tuple[Array, str]]:
        """Yields maps [H, W, 3] of the confusions of one run, each with a caption; none if no
        evaluation records them."""
        classed = self.subject.classed(self.subject.judged[run])
        for found in classed.confusions if classed else []:
            said = f"{found.said} (true classes down, predicted ones across)"
            yield _opaque(_map(found)), f"{found.strength}: {said}"

    def _change(self, run: int, level: int, at: int) -> tuple[Array, str]:
        """A perturbation [H, W, 3], scaled to fill the range, and the factor."""
        change = (
            self.looked.seen[run][1][level, at] - self.looked.clean[at].astype(np.float32) / 255
        )
        most = float(np.abs(change).max())
        factor = 0.5 / most if most else 1.0
        return _pixels(0.5 + factor * change), f"{factor:.3g}"

    def _shown(self, row: int) -> Shown:
        at, label = self._at[row], int(self.subject.label[row])
        lines = [
            Line(
                one.name,
                self._name(predicted[0, at]),
                bool(predicted[0, at] == label),
                [self._attacked(one, number, row, level) for level in range(len(attacked))],
            )
            for number, (one, (predicted, attacked)) in enumerate(
                zip(self.subject.judged, self.looked.seen, strict=True)
            )
        ]
        clean = np.moveaxis(self.looked.clean[at], 0, -1)
        return Shown(int(self.subject.index[row]), address(clean), self._name(label), lines)

    def _attacked(self, one: Judged, number: int, row: int, level: int) -> Attacked:
        at, strength = self._at[row], self.subject.shown[level]
        predicted, attacked = self.looked.seen[number]
        taken = int(predicted[level + 1, at])
        change, factor = self._change(number, level, at)
        return Attacked(
            address(change),
            factor,
            address(_pixels(attacked[level, at])),
            self._name(taken),
            taken == self.subject.label[row],
            f"image {self.subject.index[row]} attacked at {strength}, as {one.name} sees it",
        )

    def _name(self, number: Any) -> str:
        return _name(self.looked.names, int(number))


class Matrix(NamedTuple):
    """A confusion as the page shows it. rows: numbers, each with a shade from 0 to 4, if there are
    few classes; image: a map, if there are many."""

    strength: str
    said: str
    names: list[str]
    rows: list[list[tuple[int, int]]]
    image: str
    mistakes: list[tuple[str, str, int]]


class Confusions(NamedTuple):
    """The confusions of one run, by the evaluation `source`. matrices: [] if it records no classes;
    attacked: whether it attacked at each strength, instead of measuring distances; right: if there
    are no matrices, for each class the number of its images and of those that are right, clean and
    at each strength shown."""

    source: str
    images: int
    attacked: bool
    matrices: list[Matrix]
    right: list[tuple[str, list[int]]]


def _confusion(one: Judged, subject: Subject, names: Sequence[str]) -> Confusions:
    name = partial(_name, names)
    if classed := subject.classed(one):
        matrices = [_matrix(found, name) for found in classed.confusions]
        return Confusions(classed.evaluation, classed.images, classed.attacked, matrices, [])
    levels = [0, *(subject.strengths.index(strength) for strength in subject.shown)]
    right = [
        (
            name(int(label)),
            [int(mine.sum()), *(int((mine & (one.critical > level)).sum()) for level in levels)],
        )
        for label in np.unique(subject.label)
        for mine in [subject.label == label]
    ]
    return Confusions(subject.evaluation, len(subject.label), False, [], right)


def _matrix(found: Confusion, name: Callable[[int], str]) -> Matrix:
    counts = found.counts
    shades = np.ceil(4 * found.share).astype(int)
    few = len(counts) <= FEW
    return Matrix(
        found.strength,
        found.said,
        [name(number) for number in range(len(counts))],
        np.stack([counts, shades], axis=-1).tolist() if few else [],
        "" if few else address(_map(found)),
        [(name(own), name(taken), count) for own, taken, count in found.mistakes(MISTAKES)],
    )


def _map(found: Confusion) -> Array:
    """A map [classes, classes, 4] with a pixel for each pair of classes, the more opaque the larger
    the share of the true class."""
    pixels = np.zeros((*found.counts.shape, 4), np.uint8)
    pixels[..., :3] = INK
    pixels[..., 3] = np.rint(255 * np.sqrt(found.share))
    return pixels


def _opaque(pixels: Array) -> Array:
    """A map on white, at least `LEGIBLE` pixels a side."""
    shade = pixels[..., 3:] / 255
    flat = np.rint(shade * pixels[..., :3] + (1 - shade) * 255).astype(np.uint8)
    scale = -(-LEGIBLE // len(flat))
    return flat.repeat(scale, 0).repeat(scale, 1)


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else f"class {number}"


def _pixels(image: Array) -> Array:
    """[3, H, W] in [0, 1] -> uint8 [H, W, 3]."""
    found: Array = np.rint(255 * np.moveaxis(image, 0, -1).clip(0, 1)).astype(np.uint8)
    return found


def address(pixels: Array) -> str:
    """Pixels [H, W, 3 or 4] as the data URL of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Fine-grained image datasets that are drawn, not downloaded: the data of `sweep demo`.

`glyph` is an alphabet whose letters come in families of four that differ in two vertices; `plane`
is aircraft seen from above that differ in proportions. The demo's backbones are pretrained on
`source`: other letters and other aircraft, drawn in the same way.
"""

import torch
from torch import Tensor

from core.config import ConfigError, nearest
from core.config.registry import PROCEDURAL
from core.config.seeds import derive
from core.data.capsules import Look, Skeletons, render, uniform

CLASSES = PROCEDURAL
NAMES: tuple[str, ...] = tuple(CLASSES)
SIZES: dict[str, dict[str, int]] = {
    "glyph": {"train": 1280, "val": 512, "test": 512},
    "plane": {"train": 1280, "val": 512, "test": 512},
    "source": {"train": 7680, "val": 640, "test": 640},
}


def draw(name: str, split: str, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draw one split of a dataset.

    seed: the run's seed, which changes only the training images; classes, validation and test
    images are the same for every seed. Labels cycle through the classes (0, 1, ..., 0, 1, ...), so
    that the first images of a split are balanced, too.

    Returns images uint8 [n, 3, 32, 32] and labels int64 [n], n as in `SIZES`.
    Raises ConfigError if the name or the split is unknown.
    """
    if name not in SIZES:
        raise ConfigError(f"unknown procedural dataset '{name}'{nearest(name, SIZES)}")
    if split not in SIZES[name]:
        raise ConfigError(f"{name}: unknown split '{split}'{nearest(split, SIZES[name])}")
    kinds = {"glyph": ("glyph",), "plane": ("plane",), "source": ("glyph", "plane")}[name]
    classes, size = CLASSES[name] // len(kinds), SIZES[name][split] // len(kinds)
    labels = torch.arange(size) % classes
    drawn = []
    for kind in kinds:
        design, look = _KINDS[kind]
        skeletons = design(classes, _stream(0, name, kind, "classes")).pick(labels)
        images = _stream(seed if split == "train" else 0, name, kind, split)
        drawn.append(render(skeletons, look, images))
    offsets = torch.arange(len(kinds)) * classes
    return torch.stack(drawn, dim=1).flatten(0, 1), (labels[:, None] + offsets).flatten()


def _glyphs(classes: int, generator: torch.Generator) -> Skeletons:
    """Letters of five strokes; every four consecutive letters are a family.

    The members of a family share six vertices, except that each member has two of them moved by
    .45, in directions that differ by a quarter turn between members.
    """
    families = classes // 4
    vertices = uniform((families, 6, 2), -0.7, 0.7, generator).repeat_interleave(4, dim=0)
    moved = torch.rand((families, 6), generator=generator).argsort(dim=1)[:, :2]
    angle = uniform((families, 1, 2), 0, 2 * torch.pi, generator)
    angle = angle + torch.arange(4)[None, :, None] * (torch.pi / 2)  # [families, member, moved]
    step = 0.45 * torch.stack([angle.cos(), angle.sin()], dim=-1).view(classes, 2, 2)
    index = moved.repeat_interleave(4, dim=0)[..., None].expand(-1, -1, 2)
    edges = torch.tensor([[i, i + 1] for i in range(5)])
    return Skeletons(vertices.scatter_add(1, index, step), torch.full((classes, 5), 0.1), edges)


_PLANE_RANGES = torch.tensor(
    [
        [-0.85, -0.45],  # nose, along the fuselage (up is negative)
        [0.4, 0.8],  # tail
        [-0.35, 0.25],  # wing root
        [-0.2, 0.45],  # sweep: how far the wing tip lies behind the root
        [0.4, 0.85],  # half span
        [-0.15, 0.25],  # sweep of the tail plane
        [0.12, 0.45],  # half span of the tail plane
        [0.2, 0.8],  # engines, as a share of the half span
        [0.1, 0.3],  # engine length
        [0.05, 0.13],  # radius of the fuselage
        [0.05, 0.1],  # radius of the wings
    ]
)


def _planes(classes: int, generator: torch.Generator) -> Skeletons:
    """Aircraft from above: of 8 x classes random ones, those that differ most from each other."""
    share = torch.rand((8 * classes, len(_PLANE_RANGES)), generator=generator)
    share = share[_farthest(share, classes)]
    low, high = _PLANE_RANGES.T
    nose, tail, root, sweep, span, tail_sweep, tail_span, place, length, body, wing = (
        low + (high - low) * share
    ).T
    zero = torch.zeros_like(nose)
    engine = root + place * sweep  # where the engine sits on the wing
    points = [
        (zero, nose),
        (zero, tail),
        (zero, root),
        (-span, root + sweep),
        (span, root + sweep),
        (-tail_span, tail + tail_sweep),
        (tail_span, tail + tail_sweep),
        (-place * span, engine),
        (-place * span, engine - length),
        (place * span, engine),
        (place * span, engine - length),
    ]
    vertices = torch.stack([torch.stack(point, dim=-1) for point in points], dim=1)
    edges = torch.tensor([[0, 1], [2, 3], [2, 4], [1, 5], [1, 6], [7, 8], [9, 10]])
    thin = torch.full_like(wing, 0.05)
    radii = torch.stack([body, wing, wing, thin, thin, thin, thin], dim=1)
    return Skeletons(vertices, radii, edges)


def _farthest(points: Tensor, count: int) -> Tensor:
    """Indices of `count` rows: the first, then repeatedly the one farthest from all chosen."""
    chosen = [0]
    gap = torch.full((len(points),), torch.inf)
    while len(chosen) < count:
        gap = torch.minimum(gap, torch.linalg.vector_norm(points - points[chosen[-1]], dim=1))
        chosen.append(int(gap.argmax()))
    return torch.tensor(chosen)


_KINDS = {
    "glyph": (_glyphs, Look(jitter=0.04, rotation=0.25, contrast=(0.25, 0.5))),
    "plane": (_planes, Look(jitter=0.02, rotation=0.2, contrast=(0.4, 0.7))),
}


def _stream(seed: int, *purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, *purpose))

"""Draws small colour pictures of capsule skeletons (line segments with a radius) in pure torch.

`core.data.drawn` decides which skeletons make a dataset; this module turns one skeleton per
image into pixels. Pose, colour, background and noise are random, all from one generator.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SIZE = 32  # height and width of every image, pixels
CONTRAST_FACTOR = 0.3
"""Contrast of every image is reduced by this factor, x -> .5 + .3 (x - .5).

At full contrast, perturbations of 4/255 and 8/255 as in the paper would be too small to matter.
With the factor the drawing differs from its background by some 20-50 grey levels, about as much as
details of a photograph do. Only the ratio counts: drawing at full contrast and dividing eps by .3
would be the same experiment.
"""

_SHARPNESS = 0.9 * SIZE  # edge of a capsule: about two pixels from 15 % to 85 % coverage
_CHUNK = 256  # images rendered at once: x 7 capsules x 1024 pixels x 2 coordinates = 15 MB


@dataclass(frozen=True, slots=True)
class Skeletons:
    """One skeleton per row: all rows share the edges and differ in vertices and radii."""

    vertices: Tensor  # [n, vertices, 2], x right and y down, the picture is [-1, 1] x [-1, 1]
    radii: Tensor  # [n, edges]
    edges: Tensor  # [edges, 2], indices of the two end vertices

    def pick(self, rows: Tensor) -> "Skeletons":
        """The skeletons of the given rows [k], which may repeat."""
        return Skeletons(self.vertices[rows], self.radii[rows], self.edges)


@dataclass(frozen=True, slots=True)
class Look:
    """How much the drawings of one skeleton vary."""

    jitter: float  # sd of each vertex coordinate
    rotation: float  # largest angle either way, radians
    contrast: tuple[float, float]  # of foreground against background, before CONTRAST_FACTOR


def render(skeletons: Skeletons, look: Look, generator: torch.Generator) -> Tensor:
    """One picture of every skeleton: uint8 [n, 3, 32, 32]."""
    n = len(skeletons.vertices)
    chunks = [torch.arange(first, min(first + _CHUNK, n)) for first in range(0, n, _CHUNK)]
    return torch.cat([_render(skeletons.pick(rows), look, generator) for rows in chunks])


def _render(skeletons: Skeletons, look: Look, generator: torch.Generator) -> Tensor:
    n = len(skeletons.vertices)
    mask = coverage(pose(skeletons, look, generator))[:, None]
    sign = torch.randint(2, (n, 1, 1, 1), generator=generator) * 2 - 1
    contrast = uniform((n, 1, 1, 1), *look.contrast, generator)
    tint = uniform((n, 3, 1, 1), 0.7, 1.3, generator)
    image = background(n, generator) + mask * sign * contrast * tint
    image += 0.03 * torch.randn(image.shape, generator=generator)
    image = 0.5 + CONTRAST_FACTOR * (image.clamp(0, 1) - 0.5)
    return (255 * image).round().to(torch.uint8)


def pose(skeletons: Skeletons, look: Look, generator: torch.Generator) -> Skeletons:
    """The same skeletons, each jittered, rotated, scaled, shifted and thickened at random."""
    vertices = skeletons.vertices
    n = len(vertices)
    vertices = vertices + look.jitter * torch.randn(vertices.shape, generator=generator)
    angle = uniform((n,), -look.rotation, look.rotation, generator)
    scale = uniform((n, 1, 1), 0.85, 1.15, generator)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, sin, -sin, cos], dim=-1).view(n, 2, 2)
    vertices = scale * vertices @ turn + uniform((n, 1, 2), -0.12, 0.12, generator)
    radii = skeletons.radii * uniform((n, 1), 0.8, 1.2, generator)
    return Skeletons(vertices, radii, skeletons.edges)


def coverage(skeletons: Skeletons) -> Tensor:
    """The share of each pixel that a skeleton's capsules cover: [n, 32, 32] in (0, 1)."""
    axis = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    pixels = torch.cartesian_prod(axis, axis).flip(-1)[None, None]  # [1, 1, 1024, 2] as (x, y)
    ends = skeletons.vertices[:, skeletons.edges]  # [n, edges, 2 ends, 2]
    start, along = ends[:, :, :1], ends[:, :, 1:] - ends[:, :, :1]  # [n, edges, 1, 2] each
    offset = pixels - start
    length2 = along.square().sum(-1).clamp_min(1e-12)  # two vertices may coincide
    nearest = ((offset * along).sum(-1) / length2).clamp(0, 1)  # foot point as a share of along
    distance = torch.linalg.vector_norm(offset - nearest[..., None] * along, dim=-1)
    distance = (distance - skeletons.radii[..., None]).amin(dim=1)
    return torch.sigmoid(-_SHARPNESS * distance).view(-1, SIZE, SIZE)


def background(n: int, generator: torch.Generator) -> Tensor:
    """A random colour with soft blobs and a faint grating: [n, 3, 32, 32], about .5 +- .2."""
    colour = uniform((n, 3, 1, 1), 0.35, 0.65, generator)
    blobs = torch.randn((n, 3, 4, 4), generator=generator)
    blobs = functional.interpolate(blobs, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return colour + 0.06 * blobs + _grating(n, generator)


def _grating(n: int, generator: torch.Generator) -> Tensor:
    """Plane sine waves of random direction, frequency, phase and strength: [n, 1, 32, 32]."""
    angle = uniform((n, 1, 1), 0, math.pi, generator)
    frequency = math.pi * uniform((n, 1, 1), 3, 8, generator)  # radians per unit: 3-8 periods
    phase = uniform((n, 1, 1), 0, 2 * math.pi, generator)
    strength = uniform((n, 1, 1), 0.0, 0.06, generator)
    axis = torch.linspace(-1, 1, SIZE)
    wave = angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]
    return (strength * torch.sin(frequency * wave + phase))[:, None]


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)

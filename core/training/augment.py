"""Training augmentation on the device, with random numbers per image and epoch.

The numbers of image i at epoch t are row i of a table drawn from (seed, t), so they depend neither
on batch order nor on the number of workers, and a resumed run draws the same ones.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.config import Augment
from core.config.seeds import derive

_COLUMNS = 7  # flip, brightness, contrast, saturation, angle, shift down, shift right


def draw_table(seed: int, epoch: int, images: int) -> Tensor:
    """The random numbers of an epoch, [images, 7], uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(derive(seed, "augment", epoch))
    return torch.rand(images, _COLUMNS, generator=generator)


def augment_images(x: Tensor, u: Tensor, kind: Augment) -> Tensor:
    """Augment images x [B, 3, H, W] in [0, 1] with their rows u [B, 7] of the table."""
    if kind.flip:
        x = torch.where((u[:, 0] < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)
    if kind.shift:
        x = _shift(x, (u[:, 5:7] * (2 * kind.shift + 1)).long() - kind.shift)
    if kind.rotate:
        x = _rotate(x, (u[:, 4] * 2 - 1) * math.radians(kind.rotate))
    if kind.jitter:
        x = _jitter(x, 1 + (u[:, 1:4] * 2 - 1) * kind.jitter)
    return x


def _shift(x: Tensor, pixels: Tensor) -> Tensor:
    """Roll every image by its own (down, right) pixels [B, 2]."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) - pixels[:, :1]) % height
    columns = (torch.arange(width, device=x.device) - pixels[:, 1:]) % width
    batch = torch.arange(len(x), device=x.device).view(-1, 1, 1)
    moved = x.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate every image about its centre by its own angle [B] in radians; corners become 0."""
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    ratio = x.shape[-1] / x.shape[-2]
    top = torch.stack([cos, -sin / ratio, zero], dim=1)
    bottom = torch.stack([sin * ratio, cos, zero], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(x.shape), align_corners=False)
    turned = F.grid_sample(x, grid, mode="bilinear", align_corners=False)
    return turned.clamp(0, 1)  # the weights of four neighbours may add up to 1 + 1e-7


def _jitter(x: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, contrast and saturation by factors [B, 3], as torchvision defines them."""
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    x = (x * brightness).clamp(0, 1)
    mean = _grey(x).mean((-2, -1), keepdim=True)
    x = torch.lerp(mean, x, contrast).clamp(0, 1)
    return torch.lerp(_grey(x), x, saturation).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """Luma [B, 1, H, W] (ITU-R 601, with Pillow's weights)."""
    red, green, blue = x.split(1, dim=1)
    luma: Tensor = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma

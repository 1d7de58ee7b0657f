"""The eleven common corruptions of the guide, at severities 1 to 5 (Hendrycks & Dietterich 2019).

Definitions and parameters are those of ImageNet-C for images of 224 pixels, with two exceptions,
both as in imagecorruptions 1.1.2: motion blur (also in snow) is a weighted sum of shifted images,
since the original needs ImageMagick, and the elastic transform has no affine part, since the
original is not ordered by severity. Written with numpy, scipy and Pillow only: the packages that
offer these corruptions are abandoned, or do something else under the same names.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.float64]
"""[H, W, 3] in [0, 1]; results may lie slightly outside, `corrupt` clips them."""
Chance = np.random.Generator
Corruption = Callable[[Pixels, int, Chance], Pixels]

LUMA = np.array([0.299, 0.587, 0.114])


def corrupt(image: NDArray[np.uint8], kind: str, severity: int, seed: int) -> NDArray[np.uint8]:
    """A corrupted copy of an image, both [3, H, W]. kind: a key of CORRUPTIONS; severity: 1 to 5;
    all randomness comes from `seed`."""
    pixels = image.transpose(1, 2, 0) / 255
    found = CORRUPTIONS[kind](pixels, severity - 1, np.random.default_rng(seed))
    corrupted: NDArray[np.uint8] = np.rint(found.clip(0, 1) * 255).astype(np.uint8)
    return corrupted.transpose(2, 0, 1)


def _shot_noise(x: Pixels, level: int, chance: Chance) -> Pixels:
    photons = (60, 25, 12, 5, 3)[level]
    return chance.poisson(x * photons) / photons


def _impulse_noise(x: Pixels, level: int, chance: Chance) -> Pixels:
    """Salt and pepper, per channel."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    draw = chance.random(x.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw < share, 1.0, x))


def _defocus_blur(x: Pixels, level: int, chance: Chance) -> Pixels:
    """Blur by a disk with a soft edge."""
    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = max(radius, 8)
    grid = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    disk = (grid <= radius).astype(float)
    edge = 1 if radius <= 8 else 2
    kernel = ndimage.gaussian_filter(disk, soft, mode="mirror", radius=edge)
    return ndimage.correlate(x, kernel[:, :, None] / kernel.sum(), mode="mirror")


def _motion_blur(x: Pixels, level: int, chance: Chance) -> Pixels:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _moved(x, radius, sigma, math.radians(chance.uniform(-45, 45)))


def _moved(x: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """The weighted mean of copies of an image [H, W, ...], each shifted one more step in one
    direction, with the weights of half a Gaussian; border pixels are repeated."""
    height, width = x.shape[:2]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    blurred = np.zeros_like(x)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = (math.ceil(step * f(angle) - 0.5) for f in (math.sin, math.cos))
        rows = (np.arange(height) + down).clip(0, height - 1)
        columns = (np.arange(width) + right).clip(0, width - 1)
        blurred += weight * x[rows[:, None], columns]
    return blurred


def _zoom_blur(x: Pixels, level: int, chance: Chance) -> Pixels:
    """The mean of an image and its enlargements."""
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, end, step)
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _zoomed(x: Pixels, factor: float) -> Pixels:
    """The middle of an image [H, W, ...], enlarged by `factor` to the image's size."""
    sizes = [math.ceil(side / factor) for side in x.shape[:2]]
    (top, left) = ((side - size) // 2 for side, size in zip(x.shape, sizes, strict=False))
    middle = x[top : top + sizes[0], left : left + sizes[1]]
    scale = [side / size for side, size in zip(x.shape, sizes, strict=False)]
    found: Pixels = ndimage.zoom(middle, [*scale, *[1] * (x.ndim - 2)], order=1)
    return found


def _snow(x: Pixels, level: int, chance: Chance) -> Pixels:
    """Flakes blurred in one direction, plus the same rotated by 180 degrees, on a paler image."""
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = _zoomed(chance.normal(mean, spread, x.shape[:2]), zoom)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)
    angle = math.radians(chance.uniform(-135, -45))
    flakes = _moved(flakes, int(radius), sigma, angle)[..., None]
    pale = np.maximum(x, (x @ LUMA)[..., None] * 1.5 + 0.5)
    snowy: Pixels = kept * x + (1 - kept) * pale + flakes + flakes[::-1, ::-1]
    return snowy


def _brightness(x: Pixels, level: int, chance: Chance) -> Pixels:
    """Adds a constant to the value (of hue, saturation, value); black becomes grey."""
    value = x.max(2, keepdims=True)
    brighter = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 1)
    scaled: Pixels = np.where(value > 0, x * (brighter / np.where(value > 0, value, 1)), brighter)
    return scaled


def _contrast(x: Pixels, level: int, chance: Chance) -> Pixels:
    mean = x.mean((0, 1), keepdims=True)
    flat: Pixels = (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean
    return flat


def _elastic_transform(x: Pixels, level: int, chance: Chance) -> Pixels:
    """Moves pixels by small random offsets that vary smoothly over the image."""
    height, width = x.shape[:2]
    strength = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[level]
    sigma, largest = (0.01 * height, 0.01 * width), 0.005 * height
    right, down = (
        strength
        * ndimage.gaussian_filter(
            chance.uniform(-largest, largest, (height, width)), sigma, mode="reflect", truncate=3
        )
        for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([rows + down, columns + right])
    channels = [
        ndimage.map_coordinates(x[..., c], places, order=1, mode="reflect") for c in range(3)
    ]
    return np.stack(channels, axis=2)


def _pixelate(x: Pixels, level: int, chance: Chance) -> Pixels:
    height, width = x.shape[:2]
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    small = _picture(x).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / 255


def _jpeg_compression(x: Pixels, level: int, chance: Chance) -> Pixels:
    file = io.BytesIO()
    _picture(x).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    with Image.open(file) as image:
        return np.asarray(image) / 255


def _picture(x: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(x * 255).astype(np.uint8))


CORRUPTIONS: dict[str, Corruption] = {
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""Name -> corruption, in the order in which blocks of images get them. As in the guide, without
gaussian_noise, glass_blur, frost and fog."""

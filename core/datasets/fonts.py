"""Which font is a word set in? A fine-grained task drawn from the fonts of any machine.

Every font file is a class, every image an invented word in that font. Splits share no words, so
that a network has to learn the shapes of letters, not of words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from core.config import ConfigError
from core.config.seeds import derive

ENDINGS = (".ttf", ".otf")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIXELS = 64
SIZES = 36, 50
"""Range of font sizes in pixels. Letters this large keep their details at 48 x 48; at 20 to 30 a
network with ImageNet weights did not learn 24 fonts in six epochs."""
MOST = 1000
"""Maximum number of images per class, a third of the short words that there are."""
ENDS = 0.7, 0.8
"""Cumulative shares of the words for training and validation; the rest are for the test split."""


def find_fonts(folder: Path) -> dict[str, Path]:
    """Class name -> font file, sorted, for every font below `folder` that has all Latin letters; of
    fonts with identical letters, the first. Raises ConfigError if there are fewer than two."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    found: dict[str, Path] = {}
    drawn: set[bytes] = set()
    for file in files:
        look = _specimen(file)
        if look is not None and look not in drawn:
            drawn.add(look)
            found.setdefault(re.sub(r"[^\w.+-]+", "_", file.stem), file)
    if len(found) < 2:
        raise ConfigError(
            f"{folder}: expected at least two fonts with Latin letters "
            f"({' or '.join(ENDINGS)}), found {len(found)} among {len(files)} files"
        )
    return found


def _specimen(file: Path) -> bytes | None:
    """The alphabet in a font, as pixels; None if the font is unreadable or lacks letters. A missing
    letter is drawn with the same placeholder as U+FFFF, which no font has."""
    try:
        font = ImageFont.truetype(str(file), 16)
        signs = [bytes(font.getmask(letter)) for letter in (*LETTERS, "\uffff")]
    except (OSError, ValueError):
        return None
    if len({*signs}) < len(signs) - 2:  # a few letters may look the same at this size
        return None
    return b"|".join(signs)


def invented_words(count: int, seed: int = 0) -> list[str]:
    """`count` distinct words of two or three letters, alternating consonants and vowels."""
    generator = random.Random(derive(seed, "words"))
    words: dict[str, None] = {}
    while len(words) < count:
        length, start = generator.randint(2, 3), generator.randint(0, 1)
        kinds = ("bcdfghjklmnprstvwxz", "aeiouy")
        word = "".join(generator.choice(kinds[(start + i) % 2]) for i in range(length))
        words[word] = None
    return list(words)


def draw_fonts(
    folder: Path, *, each: int = 100, contrast: int = 64, most: int | None = None, seed: int = 0
) -> Iterator[tuple[str, str, Image.Image]]:
    """Yields (split, class, image of 64 x 64 pixels): `each` words in every font below `folder`,
    70, 10 and 20 % of them in train, val and test. contrast: difference between letters and
    background, 1 to 127 of 255. most: maximum number of fonts, chosen evenly from the sorted ones.
    Raises ConfigError."""
    if not 10 <= each <= MOST or not 1 <= contrast <= 127:
        raise ConfigError(
            f"fonts: expected 10 to {MOST} images per class and a contrast of 1 to 127, got "
            f"{each} and {contrast}"
        )
    fonts = list(find_fonts(folder).items())
    chosen = min(len(fonts), most or len(fonts))
    fonts = [fonts[i * len(fonts) // chosen] for i in range(chosen)]
    words = _divided(invented_words(each, seed))
    for name, file in fonts:
        generator = random.Random(derive(seed, "fonts", name))
        for split, own in words.items():
            for word in own:
                yield split, name, _draw(word, file, contrast, generator)


def _divided(words: Sequence[str]) -> dict[str, Sequence[str]]:
    first, second = (round(len(words) * share) for share in ENDS)
    return {"train": words[:first], "val": words[first:second], "test": words[second:]}


def _draw(word: str, file: Path, contrast: int, generator: random.Random) -> Image.Image:
    """A word that fills most of the width, at a random height on a random grey."""
    ground = generator.randint(contrast // 2, 255 - contrast // 2)
    ink = ground + contrast * generator.choice((-1, 1))
    if not 0 <= ink <= 255:  # then the opposite change fits, since contrast is below 128
        ink = 2 * ground - ink
    image = Image.new("RGB", (PIXELS, PIXELS), (ground,) * 3)
    size = generator.randint(*SIZES)
    font = ImageFont.truetype(str(file), size)
    left, top, right, bottom = font.getbbox(word)
    if right - left > PIXELS - 4:
        font = ImageFont.truetype(str(file), int(size * (PIXELS - 4) / (right - left)))
        left, top, right, bottom = font.getbbox(word)
    x = generator.uniform(1, max(1, PIXELS - 1 - (right - left))) - left
    y = generator.uniform(1, max(1, PIXELS - 1 - (bottom - top))) - top
    ImageDraw.Draw(image).text((x, y), word, fill=(ink,) * 3, font=font)
    return image

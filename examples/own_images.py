"""Draw a small folder of images, in the layout that epsweep expects, and write a grid for it.

    python examples/own_images.py FOLDER

writes FOLDER/shapes/{train,val,test}/{circle,cross,square}/*.png and FOLDER/shapes.yaml.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

GRID = """\
name: shapes
base: {{epochs: 16, batch: 16, image_size: 32, optim.lr: 2e-3, weights: random}}
grid:
  backbone: [mini_resnet]
  dataset: [{images}]
  epsilon_g: [8/255]
  schedule: [standard, fix, sched]
seeds: [0, 1]
evals:
  - {{epsilons: 0..16/255, steps: 10}}
"""


def drawn(shape: str, random: random.Random) -> Image.Image:
    """A shape of random position, size and colour on a random background, 64 x 64 pixels."""
    image = Image.new("RGB", (64, 64), tuple(random.randint(90, 140) for _ in range(3)))
    pen, colour = ImageDraw.Draw(image), tuple(random.randint(120, 190) for _ in range(3))
    x, y, r = random.randint(18, 46), random.randint(18, 46), random.randint(8, 16)
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.line(box, fill=colour, width=4)
        pen.line((x - r, y + r, x + r, y - r), fill=colour, width=4)
    return image


def main(folder: Path) -> None:
    images = folder.resolve() / "shapes"
    generator = random.Random(0)
    for split, count in {"train": 40, "val": 20, "test": 20}.items():
        for shape in ("circle", "cross", "square"):
            place = images / split / shape
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                drawn(shape, generator).save(place / f"{number:02}.png")
    (folder / "shapes.yaml").write_text(GRID.format(images=images))
    print(f"next: sweep launch {folder / 'shapes.yaml'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

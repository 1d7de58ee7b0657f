"""Train two small networks, compare them, attack one of them, and export it for plain timm.

    python examples/python_api.py [FOLDER]

Takes a minute on a CPU. Store and export are written to FOLDER, by default ./python_api.
"""

from __future__ import annotations

import sys
from pathlib import Path

import epsweep

GRID = {
    "name": "python_api",
    "base": {
        "backbone": "test_vit",
        "weights": "random",
        "dataset": "fake",
        "image_size": 16,
        "epochs": 2,
        "batch": 20,
        "epsilon_g": "2/255",
        "attack.steps": 1,
    },
    "grid": {"schedule": ["standard", "fix"]},
    "evals": [{"epsilons": "0..2/255", "steps": 2}],
}


def main(folder: Path) -> None:
    root = folder / "outputs"
    states = epsweep.launch(GRID, profile="debug", root=root, tracking="none", quiet=True)
    print(states)

    frame = epsweep.load(root, grid=GRID)
    print(frame.pivot_table("value", "setting", "metric").round(2))

    run = next(id for id in states if "-fix-" in id)
    model = epsweep.load_model(run, root)
    x, y = epsweep.load_images(run, "test", count=20, root=root)
    adversarial = epsweep.attack(model, x, y, epsilon="2/255")
    right = [(model(images).argmax(1) == y).sum().item() for images in (x, adversarial)]
    print(f"right of {len(y)} images: {right[0]} clean, {right[1]} attacked")

    card = epsweep.export(run, folder / "exported", root)
    print(card["load"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "python_api"))

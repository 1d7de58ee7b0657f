"""A grid that tests of launches share."""

from pathlib import Path

import pytest

from sweep.grid import Grid, load_grid

GRID = """
name: again
base: {weights: random, image_size: 32, epochs: 1, backbone: mini_convnext, dataset: fake}
seeds: [0, 1, 2]
"""


@pytest.fixture
def again(tmp_path: Path) -> Grid:
    path = tmp_path / "again.yaml"
    path.write_text(GRID)
    return load_grid(path)

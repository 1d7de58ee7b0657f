"""A small grid with a `tune:` block, and its searches."""

from __future__ import annotations

from pathlib import Path

from core.store.folders import Store
from sweep.grid import Grid, parse_grid
from sweep.grid.search import Search
from sweep.tune import session

GRID = """\
name: tiny
base: {weights: random, image_size: 32, epochs: 9, batch: 50, attack.steps: 1,
       validation: {steps: 1, images: 20}, backbone: mini_convnext, dataset: fake}
grid:
  epsilon_g: [2/255, 4/255]
  schedule: [standard, fix, sched]
seeds: [0, 1]
evals:
  - {epsilons: 0..4/255, steps: 1, images: 20}
"""


def parse(tune: str | None = "{trials: 6}", text: str = GRID) -> Grid:
    block = "" if tune is None else f"tune: {tune}\n"
    return parse_grid(text + block, Path("tiny.yaml"))


def searches(store: Store, tune: str = "{trials: 6}", text: str = GRID) -> list[Search]:
    return session.searches(parse(tune, text), store)


def one_search(store: Store, tune: str = "{trials: 6}") -> Search:
    """That of the runs at 2/255."""
    return searches(store, tune)[1]

"""Looks of settings: told apart by everyone, each its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from analysis.figures.style import LOOKS, OTHERS, looks

DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
PROTANOPIA = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])


@pytest.mark.parametrize("vision", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_settings_can_be_told_apart_by_everyone(vision: np.ndarray) -> None:
    """Linear-light colours through the usual simulation of colour blindness stay apart."""
    colors = {name: vision @ np.array(to_rgb(look.color)) ** 2.2 for name, look in LOOKS.items()}
    for first, second in itertools.combinations(colors.values(), 2):
        assert np.linalg.norm(first.clip(0) ** (1 / 2.2) - second.clip(0) ** (1 / 2.2)) > 0.12
    assert len({(look.line, look.marker) for look in LOOKS.values()}) == len(LOOKS)


def test_further_settings_get_different_looks() -> None:
    found = looks([f"T1={i};T2=50" for i in range(len(OTHERS))])
    assert len({(look.color, look.line) for look in found.values()}) == len(OTHERS)

"""Made-up evaluations by distance in a store of tests/support/analysis_store.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from analysis_store import finish, rewrite

from core.config import RunConfig
from core.config.evaluation_kinds import MinimalNorm
from core.evaluation.minimal import Distances, measured
from core.store.folders import RunDir


def finish_by_distance(
    root: Path, run: RunConfig, asked: MinimalNorm, distance: np.ndarray, correct: np.ndarray
) -> RunDir:
    """Add an evaluation with these distances [n] (pixels in [0, 1]) and right images [n]."""
    found = Distances({"distance": distance.astype(np.float32), "correct": correct})
    whole = measured(asked, found)
    folder = finish(root, run, asked, critical=whole.arrays["critical"])
    rewrite(folder.eval_json(asked.id), rows=whole.rows, expected=whole.expected, **whole.extras)
    index = np.arange(len(distance), dtype=np.int32)
    np.savez(folder.eval_flags(asked.id), index=index, label=index % 10, **whole.arrays)
    return folder

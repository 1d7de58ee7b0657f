"""The number of classes of a run's task, on which thresholds of accuracy depend. Torch-free.

Runs record it with every epoch. For runs of older versions it is inferred from other files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from core.config.registry import known_classes
from core.errors import DamagedError
from core.store import shapes
from core.store.folders import RunDir
from core.store.json_files import read_json
from core.store.records import classes_in


def classes_of(run: RunDir, dataset: str, rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of classes of a run's task: from its metrics `rows`, else from the dataset's name,
    else from the labels of an evaluation on a whole split; None if all of these fail."""
    return classes_in(rows) or known_classes(dataset) or _labelled(run)


def _labelled(run: RunDir) -> int | None:
    for path in sorted(run.evals.glob("*.json")):
        with suppress(OSError, DamagedError):
            record = read_json(path, shapes.Evaluation)
            if record and record["n"] == record["split_images"]:
                from core.store.flags import read_flags  # imports numpy, which is rarely needed

                flags = read_flags(run.eval_flags(path.stem))
                if flags and "label" in flags:
                    return int(flags["label"].max()) + 1
    return None

"""The configuration of runs as text: what all of them share, and what sets each apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.runs import Run
from analysis.variants import flat


def config_texts(runs: Sequence[Run]) -> tuple[str, dict[str, str]]:
    """(the fields all runs share, run id -> the others), one 'name: value' a line."""
    flats = {run.dir.id: dict(flat(run.config)) for run in runs}
    first = next(iter(flats.values()))
    shared = {
        name: value
        for name, value in first.items()
        if all(name in one and one[name] == value for one in flats.values())
    }
    differing = {
        run_id: {name: value for name, value in one.items() if name not in shared}
        for run_id, one in flats.items()
    }
    return _lines(shared), {run_id: _lines(one) for run_id, one in differing.items()}


def _lines(fields: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in fields.items())

"""The configuration of runs as text: the fields all of them share, and how each differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.runs import Run
from core.config.values import flat


def config_texts(runs: Sequence[Run]) -> tuple[str, dict[str, str]]:
    """(the fields all runs share, run id -> its other fields), with one 'name: value' per line."""
    # One run at a time: the fields of 10,000 take 60 MB.
    shared = flat(runs[0].config)
    for run in runs:
        one = flat(run.config)
        for name in [n for n, value in shared.items() if n not in one or one[n] != value]:
            del shared[name]
    differing = {
        run.dir.id: _lines({n: v for n, v in flat(run.config).items() if n not in shared})
        for run in runs
    }
    return _lines(shared), differing


def _lines(fields: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in fields.items())

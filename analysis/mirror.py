"""Does W&B mirror the runs exactly? Compares curves read back from W&B with the run folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from analysis.results import Results
from analysis.runs import Run
from core.config import ConfigError

History = Callable[[str], Iterable[Mapping[str, Any]]]
"""Run id -> its rows on W&B, each with its `_step`. Raises LookupError for a run that is not
there."""

LOGGED: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "train/loss": lambda row: float(row["train_loss"]),
    "val/loss": lambda row: float(row["val_loss"]),
    "val/clean": lambda row: row["val_clean_correct"] / row["val_clean_images"],
    "val/adv": lambda row: row["val_adv_correct"] / row["val_adv_images"],
}
"""Name on W&B -> its value in a row of metrics.jsonl."""


def wandb_history(project: str) -> History:
    """Reads histories of 'ENTITY/PROJECT' over the network. Raises ConfigError without access."""
    import wandb  # 0.3 s to import; the only part of analysis that needs the network
    from wandb.errors import CommError, UsageError

    try:
        api = wandb.Api(timeout=30)
    except (CommError, UsageError) as error:
        raise ConfigError(f"W&B: {error}") from None

    def history(run_id: str) -> Iterable[Mapping[str, Any]]:
        try:
            return list(api.run(f"{project}/{run_id}").scan_history())
        except (CommError, ValueError) as error:
            raise LookupError(str(error)) from None

    return history


def differences(results: Results, history: History) -> list[str]:
    """One line for each value, epoch or run that is missing on W&B or differs there.

    Runs without an epoch are left out. Values may differ by a relative 1e-6, as W&B rounds.
    """
    return [line for run in results.runs if run.epochs for line in _differences(run, history)]


def _differences(run: Run, history: History) -> Iterator[str]:
    try:
        rows = {int(row["_step"]): row for row in history(run.dir.id)}
    except LookupError as error:
        yield f"{run.dir.id}: not on W&B ({error})"
        return
    for truth in run.epochs:
        epoch = truth["epoch"]
        if epoch not in rows:
            yield f"{run.dir.id}: epoch {epoch} is not on W&B"
            continue
        for name, value in LOGGED.items():
            there = rows[epoch].get(name)
            here = value(truth)
            if not isinstance(there, (int, float)) or not math.isclose(there, here, rel_tol=1e-6):
                yield f"{run.dir.id}: epoch {epoch}, {name}: {here:.6g} here, {there} on W&B"

"""The data frames of results: their columns and types. Accuracies are in percent, epsilon_g is in
255ths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.runs import Row


@dataclass(frozen=True)
class Frame:
    """One kind of data frame. name: of its file. types: column -> dtype."""

    name: str
    types: Mapping[str, str]

    def build(self, rows: Iterable[Row]) -> pd.DataFrame:
        return self.typed(pd.DataFrame(list(rows), columns=list(self.types)))

    def typed(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[list(self.types)].astype(dict(self.types))


NAMES = {
    "model": "str",
    "dataset": "str",
    "epsilon_g": "float64",
    "norm": "str",
    "setting": "str",
    "seed": "Int64",
    "variant": "str",
    "run_id": "str",
}
"""Columns that identify a run in every frame."""
HINGES = {"T1": "Int64", "T2": "Int64"}
"""Hinges of a two-hinge schedule, in epochs."""
VALUES = Frame(
    "values",
    {
        **NAMES,
        "metric": "str",
        "value": "float64",
        "trapezoid": "float64",
        "n": "Int64",
        "state": "str",
        "reason": "str",
        "hinges": "str",
        "eval_norm": "str",
        "attack": "str",
        "split": "str",
        "split_images": "Int64",
        "zero_gradient_images": "Int64",
        "constant": "bool",
        "eval_id": "str",
        "commit": "str",
        "source": "str",
        "kind": "str",
        "about": "str",
        "note": "str",
        **HINGES,
    },
)
CURVES = Frame(
    "curves",
    {
        **NAMES,
        "eval_id": "str",
        "eval_norm": "str",
        "attack": "str",
        "split": "str",
        "epsilon": "float64",
        "correct": "int64",
        "n": "int64",
        "accuracy": "float64",
        "kind": "str",
        **HINGES,
    },
)
EPOCHS = Frame(
    "epochs",
    {
        **NAMES,
        "epoch": "int64",
        "epsilon": "float64",
        "lr": "float64",
        "train_loss": "float64",
        "train_clean_correct": "int64",
        "train_images": "int64",
        "val_loss": "float64",
        "val_clean_correct": "int64",
        "val_clean_images": "int64",
        "val_adv_correct": "int64",
        "val_adv_images": "int64",
        "val_epsilon": "str",
        "seconds": "float64",
        "images_per_s": "float64",
        "val_clean": "float64",
        "val_adv": "float64",
        "threshold": "float64",
        **HINGES,
    },
)
RUNS = Frame(
    "runs",
    {
        **NAMES,
        "state": "str",
        "reason": "str",
        "epochs": "int64",
        "delay": "Int64",
        "delay_of_paper": "Int64",
        "classes": "Int64",
        "threshold": "float64",
        "seconds": "float64",
        "attempts": "int64",
        "commit": "str",
        "host": "str",
        "device": "str",
        "finished": "str",
        "batchnorm_images": "str",
        **HINGES,
    },
)
MARGINS = Frame(
    "margins",
    {
        **NAMES,
        "eval_id": "str",
        "eval_norm": "str",
        "attack": "str",
        "split": "str",
        "n": "Int64",
        "failed": "Int64",
        "score": "str",
        "metric": "str",
        "strength": "str",
        "value": "float64",
        "low": "float64",
        "high": "float64",
        "state": "str",
        "reason": "str",
        **HINGES,
    },
)

"""Numbers from CSV files, shipped or the user's, in the same frame as numbers from run folders.

A file has at least the columns model, dataset, epsilon_g (255ths), setting, metric and value
(percent). Anything ambiguous is refused, with file and line, rather than shown wrong.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.csv_lines import number, read_lines
from analysis.frames import VALUES
from analysis.names import CORRUPTED, METRICS, MODELS, dataset_name, model_name
from core.config import ConfigError, Strength, nearest
from core.config.registry import backbone_problem
from core.config.strength import LARGEST, NORMS, Norm, in_pixels
from core.errors import counted

HINGES = re.compile(r"T1=(\d+);T2=(\d+)", re.ASCII)
REQUIRED = ("model", "dataset", "epsilon_g", "setting", "metric", "value")
BACKBONES = ("shorthand", "configuration", "huggingface_id", "reference")
"""Header of Table 5, which lists backbones and has no accuracies."""
TABLES = (1, 2, 3, 4, 6, 7, 8, 12)
CELL = ["attack", "model", "dataset", "epsilon_g", "norm", "setting", "metric", "seed", "variant"]
PRESET_HINGES = {"fix": "T1=0;T2=0", "sched": "T1=12;T2=37"}

Row = dict[str, Any]


def load_published(*numbers: int) -> pd.DataFrame:
    """The shipped numbers of these tables of arXiv 2509.23325, by default of all tables."""
    folder = resources.files("analysis").joinpath("published")
    return _frame([folder.joinpath(f"table{number}.csv") for number in numbers or TABLES])


def backbones() -> list[dict[str, str]]:
    """The lines of Table 5: shorthand, configuration, huggingface_id, reference."""
    path = resources.files("analysis").joinpath("published", "table5.csv")
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


def read(paths: Sequence[str | Path]) -> pd.DataFrame:
    """CSV files, or folders of them, as one frame with the columns of `analysis.load`.

    Raises ConfigError, naming file and line, for missing columns, an unknown model or metric, a
    value that is no percentage, fractions where percent are expected, and a cell with two values.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"--from: no CSV files in {', '.join(map(str, paths))}")
    return _frame(files)


def _frame(files: Sequence[Traversable]) -> pd.DataFrame:
    rows = [row for file in files for row in _rows(file)]
    if not rows:
        raise ConfigError(f"{', '.join(str(file) for file in files)}: no numbers")
    return VALUES.build(_merge(rows))


def _rows(file: Traversable) -> list[Row]:
    rows = [_row(fields, where) for where, fields in read_lines(file, REQUIRED, BACKBONES)]
    _refuse_fractions(rows, file)
    return rows


def _row(fields: Mapping[str, str], where: str) -> Row:
    value = _value(fields["value"], where)
    seeds = fields.get("seeds", "")
    setting = fields["setting"]
    norm = _norm(fields.get("norm") or "linf", where)
    hinges = setting if HINGES.fullmatch(setting) else PRESET_HINGES.get(setting, "")
    pair = HINGES.fullmatch(hinges)
    attack = fields.get("attack") or fields.get("eval_id", "")
    return {
        "model": _model(fields["model"], where),
        "dataset": dataset_name(fields["dataset"]),
        "epsilon_g": _strength(fields["epsilon_g"], norm, where),
        "norm": norm,
        "setting": setting,
        "seed": int(fields["seed"]) if fields.get("seed", "").isdecimal() else None,
        "metric": _metric(fields["metric"], where),
        "value": value,
        "n": int(fields["n"]) if fields.get("n", "").isdecimal() else None,
        "state": "missing" if value is None else fields.get("state") or "done",
        "reason": "" if value is not None else "not in the source",
        "variant": fields.get("variant", ""),
        "hinges": hinges,
        "T1": int(pair[1]) if pair else None,
        "T2": int(pair[2]) if pair else None,
        "attack": attack,
        "eval_norm": norm,
        "kind": fields.get("kind", ""),
        "about": "",
        "note": "",
        "split": "",
        "run_id": "",
        "constant": False,
        "eval_id": attack,
        "commit": "",
        "source": where + (f" ({counted(int(seeds), 'seed')})" if seeds else ""),
    }


def _model(text: str, where: str) -> str:
    name = model_name(text)
    if name in MODELS.values() or backbone_problem(name) is None:
        return name
    raise ConfigError(f"{where}: unknown model '{text}'{nearest(text, MODELS.values())}")


def _metric(text: str, where: str) -> str:
    if text in (*METRICS, CORRUPTED):
        return text
    raise ConfigError(f"{where}: unknown metric '{text}'{nearest(text, METRICS)}")


def _norm(text: str, where: str) -> Norm:
    for norm in NORMS:
        if norm == text:
            return norm
    raise ConfigError(f"{where}: unknown norm '{text}'{nearest(text, NORMS)}")


def _strength(text: str, norm: Norm, where: str) -> float:
    """A strength in 255ths, written as '4' or '4/255'."""
    try:
        strength = Fraction(re.sub(r"/255$", "", text))
    except (ValueError, ZeroDivisionError):
        strength = Fraction(-1)
    if not 0 <= strength <= 255 * (1 if in_pixels(norm) else LARGEST):
        raise ConfigError(f"{where}: epsilon_g: expected 255ths such as 4, got '{text}'")
    return float(strength)


def _value(text: str, where: str) -> float | None:
    if not text:
        return None
    value = number(text)
    if not 0 <= value <= 100:
        raise ConfigError(f"{where}: value: expected percent in [0, 100], got '{text}'")
    return value


def _refuse_fractions(rows: Sequence[Row], file: Traversable) -> None:
    """Raise ConfigError if values look like fractions instead of percent."""
    values = [row["value"] for row in rows if row["value"]]
    if values and max(values) <= 1:
        raise ConfigError(
            f"{file}: every value is at most 1 (largest {max(values)}): these look like fractions, "
            "expected percent; multiply by 100"
        )
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["value"] is not None:
            key = tuple(row[name] for name in CELL if name != "metric")
            groups.setdefault(key, {})[row["metric"]] = row
    for group in groups.values():
        for row in group.values():
            if _looks_scaled(row, group):
                raise ConfigError(
                    f"{row['source']}: {row['metric']} = {row['value']} beside "
                    f"{_others(row, group)}: a fraction among percentages"
                )


def _looks_scaled(row: Row, group: Mapping[str, Row]) -> bool:
    """Whether adv <= expected <= clean is violated, but holds with this value times 100."""

    def ordered(factor: float) -> bool:
        found = [
            other["value"] * (factor if other is row else 1)
            for metric in ("adv", "expected", "clean")
            if (other := group.get(metric))
        ]
        return found == sorted(found)

    small = 0 < row["value"] <= 1
    return small and len(group) > 1 and not ordered(1) and ordered(100)


def _others(row: Row, group: Mapping[str, Row]) -> str:
    return ", ".join(f"{m} = {other['value']}" for m, other in group.items() if other is not row)


def _merge(rows: Iterable[Row]) -> list[Row]:
    """One row per cell. A value takes the place of a missing one in another file. Raises
    ConfigError for two different values."""
    merged: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in CELL)
        first = merged.setdefault(key, row)
        if first["value"] is None:
            merged[key] = row
        elif row["value"] is not None and row["value"] != first["value"]:
            name = "/".join(str(row[part]) for part in ("model", "dataset", "setting", "metric"))
            at = Strength.of_255ths(row["epsilon_g"], row["norm"])
            raise ConfigError(
                f"{row['source']}: {name} at {at} is {row['value']}, but "
                f"{first['value']} in {first['source']}"
            )
    return list(merged.values())

"""The tables of the paper by number, and the text of whole tables in any format."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.cells import Cell, Key, cells
from analysis.formats import FORMATS
from analysis.names import strength_name
from analysis.tables import PLUS_MINUS, Table, pivot
from core.config import ConfigError, nearest

TIDY = ["model", "dataset", "epsilon_g", "setting", "metric", "value", "n", "seeds"]


def one_evaluation(frame: pd.DataFrame, eval_id: str | None = None) -> pd.DataFrame:
    """The rows of one evaluation, by default the first that the grid asks for.

    Accuracies under different attacks never stand in one row. Raises ConfigError where `eval_id`
    is not there.
    """
    known = list(dict.fromkeys(frame["eval_id"]))
    if eval_id is not None and eval_id not in known:
        raise ConfigError(f"unknown evaluation '{eval_id}'{nearest(eval_id, known)}")
    return frame[frame["eval_id"] == (eval_id or known[0])]


def main_tables(frame: pd.DataFrame, eval_id: str | None = None) -> list[Table]:
    """Tables 1 and 2: one table per eps_g, settings below each other, best in bold."""
    chosen = one_evaluation(frame, eval_id)
    found = cells(chosen)
    tables = []
    for epsilon_g in sorted({key.epsilon_g for key in found}):
        at = {key: cell for key, cell in found.items() if key.epsilon_g == epsilon_g}
        title = f"eps_g = {strength_name(epsilon_g)}" if epsilon_g else "Not attacked"
        tables.append(pivot(at, title, notes=[about(chosen)]))
    return tables


def about(frame: pd.DataFrame) -> str:
    """What the numbers are: unit, attack, split, seeds."""
    attacks = [attack for attack in dict.fromkeys(frame["attack"]) if attack]
    splits = [split for split in dict.fromkeys(frame["split"]) if split]
    text = "Accuracy in %"
    if splits:
        text += f" on the {' and '.join(splits)} split"
    if attacks:
        text += f"; adv and expected under {' and '.join(attacks)} (l-inf)"
    seeds = sorted(set(frame["seed"].dropna())) if "seed" in frame else []
    if len(seeds) > 1:
        text += f"; mean {PLUS_MINUS} sample standard deviation over {len(seeds)} seeds"
    elif seeds:
        text += f"; one seed ({seeds[0]})"
    return text


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell in the columns of the published files, with n, seeds, std and state.

    value stays empty where nothing was measured; only seeds are averaged.
    """
    rows = [_tidy_row(key, cell) for key, cell in cells(frame).items()]
    table = pd.DataFrame(rows)
    if (table["variant"] == "").all():
        table = table.drop(columns="variant")
    if table["eval_id"].nunique() == 1:
        table = table.drop(columns="eval_id")
    return table


def _tidy_row(key: Key, cell: Cell) -> dict[str, object]:
    return {
        "model": key.model,
        "dataset": key.dataset,
        "epsilon_g": f"{key.epsilon_g:g}",
        "setting": key.setting,
        "metric": key.metric,
        "value": None if cell.value is None else round(cell.value, 10),
        "n": "" if not cell.n else " to ".join(map(str, cell.n)),
        "seeds": cell.seeds,
        "std": None if cell.std is None else round(cell.std, 10),
        "state": "done" if cell.complete else _incomplete(cell),
        "variant": key.variant,
        "eval_id": key.evaluation,
    }


def _incomplete(cell: Cell) -> str:
    return cell.state if cell.state != "done" else "unequal"


def text(tables: Sequence[Table], form: str = "markdown") -> str:
    """Whole tables in one of FORMATS, a blank line between them."""
    return "\n".join(FORMATS[form](table) for table in tables)


def tables(frame: pd.DataFrame, form: str = "markdown") -> tuple[str, bool]:
    """The tables of `frame` as text, and whether every number asked for is in them.

    form: markdown, csv, latex or tidy. Raises ConfigError for an unknown form.
    """
    if form not in (known := [*FORMATS, "tidy"]):
        raise ConfigError(f"--format: unknown format '{form}'{nearest(form, known)}")
    laid_out = main_tables(frame)
    complete = all(table.complete for table in laid_out)
    if form == "tidy":
        return tidy(frame).to_csv(index=False, lineterminator="\n"), complete
    return text(laid_out, form), complete

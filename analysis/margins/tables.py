"""The tables of margin consistency: tau, detection by strength, and errors of estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.margins.detection import DRAWS, RARE, RAREST, TPRS, is_scarce, known
from analysis.margins.rows import SCORES
from analysis.margins.trends import sentences
from analysis.names import NORMS, paper_order
from analysis.rounding import half_up
from analysis.tables import ABSENT, PLUS_MINUS, Entry, Table, some
from core.config import Strength
from core.config.strength import in_pixels, scale_of

ROW = ["model", "dataset", "epsilon_g", "norm", "setting", "variant", "eval_id", "eval_norm"]
"""Columns that identify a row of a table; its seeds are averaged."""
DETECTION = {
    "auroc": "AUROC of detecting brittle images",
    "aupr": "AUPR of detecting brittle images",
    "fpr95": "False positive rate at 95 % of the brittle images found",
}
RULES = {
    "fixed": "threshold at a true positive rate of 95 %",
    "best": f"threshold at the best of {len(TPRS)} true positive rates",
}
EVERYWHERE = ("logit", "pseudo, features", "pseudo, logits")
"""Margins in the tables by strength. Without the feature margin, which ranks nearly like the logit
margin; only its tau is shown."""
SCARCE = "*"
Row = tuple[Any, ...]


def margin_tables(frame: pd.DataFrame) -> list[Table]:
    """The tables of margin consistency. frame: as `Results.margins`; [] if it is empty."""
    if frame.empty:
        return []
    return [
        _consistency(frame),
        *(_by_strength(frame, metric, title, _plain) for metric, title in DETECTION.items()),
        *(
            _by_strength(frame, metric, f"Error of estimated robust accuracy, {rule}", _error)
            for metric, rule in RULES.items()
        ),
    ]


def _consistency(frame: pd.DataFrame) -> Table:
    """A row per run without its seed, a column per margin."""
    taus = frame[frame["metric"] == "tau"]
    scores = [name for name in SCORES if name in set(taus["score"])] or ["logit"]
    medians = frame[frame["metric"] == "median"].groupby(ROW)["value"].mean().to_dict()
    rows = []
    for row, group in _grouped(taus, ROW):
        seeds, by_score = group["run_id"].nunique(), dict(list(group.groupby("score")))
        measured = [by_score.get(score, by_score.get("")) for score in scores]
        entries = [
            Entry(ABSENT) if one is None else _of(seeds, one, _tau(one, bare=score != "logit"))
            for score, one in zip(scores, measured, strict=True)
        ]
        median = medians.get(row, float("nan")) * scale_of(row[-1])
        shown = ABSENT if np.isnan(median) else "inf" if np.isinf(median) else str(half_up(median))
        rows.append((_labels(row, frame), (*entries, Entry(shown))))
    pixels = {*map(in_pixels, set(frame["eval_norm"]))}
    unit = ", in 1/255" * (True in pixels) + " for l-inf" * (len(pixels) > 1)
    notes = [
        _measured(frame),
        "tau: Kendall's tau-b between the distance to the decision boundary and a margin; in "
        "brackets its 95 % interval (percentile bootstrap over images)",
        f"median: of the distances{unit}",
        *sentences(frame),
    ]
    header = (*(("tau", score) for score in scores), ("distance", "median"))
    return _finished("Margin consistency", frame, rows, header, notes)


def _measured(frame: pd.DataFrame) -> str:
    """What the distances are: attack, norm, split and number of images."""
    known = frame.loc[frame["state"] == "done", ["attack", "eval_norm", "split", "n"]]
    parts = [
        f"{attack} ({NORMS[norm]}) on {n} {split} images"
        for attack, norm, split, n in known.drop_duplicates().itertuples(index=False, name=None)
    ]
    return f"distances by {', '.join(parts)}; own predictions, be they right or wrong" * bool(parts)


def _of(seeds: int, group: pd.DataFrame, entry: Entry) -> Entry:
    """`entry`, with the number of seeds in `group` added if some are missing."""
    if len(group) == seeds or not (group["state"] == "done").all():
        return entry
    return replace(entry, text=f"{entry.text} ({len(group)}/{seeds})")


def _tau(group: pd.DataFrame, *, bare: bool) -> Entry:
    """The entry of a tau. bare: without its interval, which is never shown for several seeds."""
    if not (group["state"] == "done").all():
        return Entry(str(group["state"][group["state"] != "done"].iloc[0]))
    if group["value"].isna().any():
        return Entry("undefined")
    if bare or len(group) > 1:
        return _plain(group)
    value, low, high = (half_up(group[name].iloc[0], 3) for name in ("value", "low", "high"))
    return Entry(f"{value} [{low}, {high}]")


def _plain(group: pd.DataFrame) -> Entry:
    """The mean over seeds, with its sample standard deviation."""
    text = str(half_up(group["value"].mean(), 3))
    spread = group["value"].std()
    return Entry(text if np.isnan(spread) else f"{text} {PLUS_MINUS} {half_up(spread, 3)}")


def _error(group: pd.DataFrame) -> Entry:
    """The mean over draws and seeds, and the worst draw in brackets."""
    mean, worst = half_up(group["value"].mean(), 1), half_up(group["high"].max(), 1)
    return Entry(f"{mean} ({worst})")


def _by_strength(
    frame: pd.DataFrame, metric: str, title: str, shown: Callable[[pd.DataFrame], Entry]
) -> Table:
    """A table with a column per strength, without strengths at which detection was skipped for
    all."""
    mine = frame[(frame["metric"] == metric) & frame["score"].isin(EVERYWHERE)]
    scores = [name for name in EVERYWHERE if name in set(mine["score"])] or ["logit"]
    seeds = frame.groupby(ROW)["run_id"].nunique().to_dict()
    found = {
        key: _of(seeds[key[: len(ROW)]], group, shown(group))
        for key, group in _grouped(mine, [*ROW, "score", "strength"])
    }
    shares = frame[frame["metric"] == "brittle"]
    tried = list(dict.fromkeys(shares["strength"]))
    asked = set(zip(shares["eval_id"], shares["strength"], strict=True))
    learned = set(zip(frame["eval_id"], frame["score"], strict=True))
    scarce = {
        key
        for key, group in _grouped(shares, [*ROW, "strength"])
        if any(map(is_scarce, group["value"] / 100, group["n"]))
    }
    columns = [text for text in tried if any(key[-1] == text for key in found)]
    rows = []
    for row, group in _grouped(frame[frame["metric"] == "tau"], ROW):
        state = next((text for text in group["state"] if text != "done"), ABSENT)
        eval_id = row[ROW.index("eval_id")]
        for score in scores:
            if score != scores[0] and (eval_id, score) not in learned:
                continue
            entries = (
                replace(entry, mark=SCARCE * ((*row, text) in scarce))
                if (entry := found.get((*row, score, text)))
                else Entry(state if state != ABSENT or (eval_id, text) in asked else "")
                for text in columns
            )
            labels = (*_labels(row, frame), *[score] * (len(scores) > 1))
            rows.append((labels, tuple(entries)))
    skipped = ", ".join(text for text in tried if text not in columns)
    notes = [
        f"{ABSENT} skipped: less than {100 * RAREST:g} % of the images are brittle, or robust"
        + (f"; skipped for all at {skipped}" if skipped else "")
    ]
    if any(entry.mark for _, entries in rows for entry in entries):
        notes.append(f"{SCARCE} fewer than {RARE} images are brittle, or robust")
    if metric in RULES:
        counts = sorted({int(n) for n in frame["n"].dropna()})
        sizes = ", ".join(f"{known(n)} of {n}" for n in counts)
        notes.append(
            f"absolute error in points, against the robust accuracy from all distances: mean over "
            f"{DRAWS} draws of {sizes} images (worst draw)"
        )
    title += "" if len(scores) > 1 else ", by the logit margin"
    return _finished(title, frame, rows, tuple((text,) for text in columns), notes)


def _grouped(frame: pd.DataFrame, by: Sequence[str]) -> list[tuple[Row, pd.DataFrame]]:
    """[(values of `by`, rows of its seeds), ...] in the paper's order."""
    groups = dict(list(frame.groupby(list(by), sort=False)))
    fields = ["strength" if name == "epsilon_g" else name for name in by]
    return [(key, groups[key]) for key in paper_order(groups, fields)]


def _labels(row: Row, frame: pd.DataFrame) -> tuple[str, ...]:
    model, dataset, epsilon_g, norm, setting, variant, eval_id, eval_norm = row
    trained = str(Strength.of_255ths(epsilon_g, norm)) if epsilon_g else "0"
    more = [variant] if _varies(frame, "variant") else []
    if _varies(frame, "eval_id"):
        about = frame[frame["eval_id"] == eval_id].iloc[0]
        more.append(f"{about['attack']} ({NORMS[eval_norm]}, {about['split']})")
    return (model, dataset, trained, setting, *more)


def _varies(frame: pd.DataFrame, name: str) -> bool:
    return bool(frame[name].nunique() > 1)


def _finished(
    title: str,
    frame: pd.DataFrame,
    rows: Sequence[tuple[tuple[str, ...], tuple[Entry, ...]]],
    header: tuple[tuple[str, ...], ...],
    notes: Iterable[str],
) -> Table:
    kinds = (("variant", "Variant"), ("eval_id", "Attack"))
    stub = ["Model", "Dataset", "eps_g", "Setting"]
    stub += [text for name, text in kinds if _varies(frame, name)]
    if rows and len(rows[0][0]) > len(stub):
        stub.append("Margin")
    complete = bool((frame["state"] == "done").all())
    notes = filter(None, (*notes, *_problems(frame)))
    return Table(title, tuple(stub), header, tuple(rows), tuple(notes), complete)


def _problems(frame: pd.DataFrame) -> list[str]:
    """Notes on distances that were not found, and on missing evaluations."""
    taus = frame[frame["metric"] == "tau"].drop_duplicates(["run_id", "eval_id"])
    notes = []
    failed = taus[taus["failed"].fillna(0) > 0]
    if len(failed):
        fields = ["run_id", "failed", "n", "eval_norm"]
        norms = len(set(taus["eval_norm"])) > 1
        named = some(
            [
                f"{count} of {n} in {run}" + f" ({NORMS[norm]})" * norms
                for run, count, n, norm in failed[fields].itertuples(index=False, name=None)
            ]
        )
        notes.append(f"no adversarial image found, counted with the largest distance: {named}")
    for (state, reason), rows in taus[taus["state"] != "done"].groupby(["state", "reason"]):
        notes.append(f"{state} ({reason}): {some(list(rows['run_id']))}")
    return notes

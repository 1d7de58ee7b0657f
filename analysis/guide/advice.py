"""Which backbones to try first on a dataset, within a budget of GPU-hours and for a threat model.

Each configuration was trained once on each of six datasets, with little search for hyper-parameters
- too little to judge it alone. So the accuracy that a configuration may reach is drawn from the
deviations (accuracy minus the dataset's mean) of the configuration and of similar ones, weighted by
`weights`. Each pick is the one that most raises the expected accuracy of the best pick, within the
budget. benchmarks/suggest_backbone.py evaluates this on held-out datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.guide.design import METRICS, facts, our_dataset, our_names, params
from core.config import ConfigError, nearest
from core.sheet import Sheet

NEW = "new"
"""Stands for any dataset on which nothing is measured."""
DRAWS = 600
SEED = 0
RANGE = 0.3
"""Standard deviation of the kernel that compares sizes, in log10 of the number of parameters."""
OWN = 0.8
"""Weight of the backbone itself; similar ones share the rest."""
TARGET = 0.5
"""Weight of the target dataset, if it was measured; the others share the rest."""


@dataclass(frozen=True)
class Pick:
    """One configuration to try. Accuracies are means over the threat model, in percent."""

    backbone: str
    """Its name in grids."""
    published: str
    """Its name in the published file."""
    loss: str
    protocol: str
    hours: float | None
    """GPU-hours of the whole run, evaluations included."""
    expected: float
    """Expected accuracy on the given dataset, or, if it is new, on one of average difficulty."""
    low: int
    high: int
    """Best (low) and worst (high) rank among all candidates, leaving out one dataset at a time."""
    datasets: int
    """Number of datasets it was measured on."""
    best: float
    """Chance, in percent, that it is the best of the picks."""
    measured: float | None
    """Accuracy measured on the given dataset, if it was."""

    def to_dict(self) -> dict[str, Any]:
        """The shape of `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Advice:
    """Picks in the order to try them, and remarks, one line each."""

    picks: tuple[Pick, ...]
    remarks: tuple[str, ...]


def advise(
    frame: pd.DataFrame,
    hours: Mapping[tuple[str, str], float | None],
    *,
    protocol: str,
    dataset: str = NEW,
    metrics: Sequence[str] = METRICS,
    budget: float | None = None,
    most: int = 5,
) -> Advice:
    """The configurations to try first.

    frame: measurements. hours: (published backbone, loss) -> GPU-hours on the dataset, None if
    unknown. dataset: its published name, or any other for a new one. metrics: the accuracies to
    average. budget: in GPU-hours, None for no limit. most: number of picks.

    Raises ConfigError if nothing was measured under the protocol, or the budget is too small.
    """
    scores = scores_of(frame, protocol, metrics)
    if scores.empty:
        known = nearest(protocol, frame["protocol"].unique())
        raise ConfigError(f"--protocol: nothing was measured under '{protocol}'{known}")
    candidates = [*scores.index]
    cost = np.array([np.nan if (h := hours.get(c)) is None else h for c in candidates])
    able = ~np.isnan(cost) & (cost <= budget) if budget is not None else np.ones(len(cost), bool)
    if not able.any():
        least = np.nanmin(cost) if (~np.isnan(cost)).any() else float("nan")
        raise ConfigError(
            f"--budget {budget:g}: too small for any run, expected at least {least:.2g} GPU-hours"
        )
    draws = draw(scores, dataset)
    chosen = pick(draws, cost, budget, most)
    low, high = ranks_left_out(scores, dataset)
    means = draws.mean(axis=0) + level(scores, dataset)
    wins = np.bincount(draws[:, chosen].argmax(axis=1), minlength=len(chosen)) / len(draws)
    target = scores[dataset] if dataset in scores else pd.Series(np.nan, index=scores.index)
    picks = tuple(
        Pick(
            our_names().get(candidates[i][0], candidates[i][0]),
            candidates[i][0],
            candidates[i][1],
            protocol,
            None if np.isnan(cost[i]) else round(float(cost[i]), 3),
            round(100 * float(means[i]), 2),
            int(low[i]),
            int(high[i]),
            int(scores.iloc[i].notna().sum()),
            round(100 * float(share), 1),
            None if pd.isna(target.iloc[i]) else round(100 * float(target.iloc[i]), 2),
        )
        for i, share in zip(chosen, wins, strict=True)
    )
    unknown = (
        {} if budget is None else {candidates[i][0]: None for i in np.flatnonzero(np.isnan(cost))}
    )
    return Advice(picks, tuple(_remarks(picks, scores, dataset, [*unknown])))


def _remarks(
    picks: Sequence[Pick], scores: pd.DataFrame, dataset: str, unknown: Sequence[str]
) -> Iterator[str]:
    if dataset in scores:
        share = int(scores[dataset].notna().sum())
        others = len(scores.columns) - 1
        yield f"{share} configurations are measured on {dataset}, besides {others} other datasets"
    else:
        known = [our_dataset(str(name)) for name in scores]
        what = NEW if dataset == NEW else f"{dataset}, on which nothing is measured"
        hint = "" if dataset == NEW else nearest(dataset, known, shown=len(known))
        yield f"{what}{hint}: assumed to be as difficult as {len(known)} datasets are on average"
    first, *rest = picks
    close = [one for one in rest if one.low <= first.high]
    if close:
        names = ", ".join(f"{one.backbone} ({one.loss})" for one in close)
        yield (
            f"the data cannot separate the first pick from {names}: its rank is {first.low} to "
            f"{first.high} of {len(scores)} when one dataset is left out, and theirs overlap"
        )
    elif rest:
        yield "the first pick ranks above the others whichever dataset is left out"
    if unknown:
        yield f"left out, as their cost is unknown: {', '.join(unknown)}"


def scores_of(frame: pd.DataFrame, protocol: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Mean over `metrics`, in [0, 1], of each (backbone, loss) (rows) on each dataset (columns);
    NaN if it was not measured."""
    rows = frame[(frame["protocol"] == protocol) & (frame["state"] == "done")]
    scored = rows.assign(score=rows[list(metrics)].mean(axis=1))
    return scored.pivot(index=["backbone", "loss"], columns="dataset", values="score")


def deviations(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores minus the level of their dataset: its mean over configurations, corrected for which
    configurations were measured on it."""
    whole = scores.dropna(axis=1, thresh=len(scores) // 2 + 1)
    usual = (whole - whole.mean()).mean(axis=1)
    return scores - (scores.sub(usual, axis=0)).mean()


def level(scores: pd.DataFrame, dataset: str) -> float:
    """Mean accuracy of all configurations on a dataset, in [0, 1]; the mean over datasets for a new
    one."""
    levels = (scores - deviations(scores)).mean()
    return float(levels[dataset] if dataset in levels else levels.mean())


def weights(candidates: Sequence[tuple[str, str]]) -> np.ndarray:
    """Weight of each configuration (column) in the estimate for each (row), shape [n, n]; rows sum
    to 1."""
    known = [facts(backbone) for backbone, _ in candidates]
    sizes = np.log10([params(backbone) or np.nan for backbone, _ in candidates])
    backbones, losses = (np.array(names) for names in zip(*candidates, strict=True))
    types, pretraining = (np.array([getattr(k, n) for k in known]) for n in ("type", "pretraining"))

    def same(values: np.ndarray, otherwise: float) -> np.ndarray:
        return np.where(values[:, None] == values[None, :], 1.0, otherwise)

    near = np.exp(-(((sizes[:, None] - sizes[None, :]) / RANGE) ** 2) / 2)
    alike = np.nan_to_num(near) * same(losses, 0.25) * same(types, 0.5) * same(pretraining, 0.5)
    mine = same(backbones, 0.0) * same(losses, 0.5)
    total = (1 - OWN) * alike + OWN * mine
    return np.asarray(total / total.sum(axis=1, keepdims=True))


def chances(scores: pd.DataFrame, dataset: str) -> np.ndarray:
    """Weight of each dataset, shape [datasets], sum 1: TARGET for the target, if it is there."""
    own = np.array([name == dataset for name in scores.columns])
    if not own.any() or own.all():
        return np.full(len(own), 1 / len(own))
    return np.where(own, TARGET, (1 - TARGET) / (~own).sum())


def draw(scores: pd.DataFrame, dataset: str) -> np.ndarray:
    """Possible results of each configuration, as deviations, shape [DRAWS, configurations]."""
    found = deviations(scores).to_numpy()
    generator = np.random.default_rng(SEED)
    rows, columns = weights([*scores.index]), chances(scores, dataset)
    drawn = np.empty((DRAWS, len(found)))
    for i in range(len(found)):
        cells = rows[i][:, None] * columns[None, :] * ~np.isnan(found)
        flat = generator.choice(cells.size, size=DRAWS, p=cells.ravel() / cells.sum())
        drawn[:, i] = found.ravel()[flat]
    return drawn


def pick(draws: np.ndarray, cost: np.ndarray, budget: float | None, most: int) -> list[int]:
    """Indices of the picks: greedily, the configuration that most raises the expected accuracy of
    the best pick, among those that the rest of the budget can pay for. cost: GPU-hours, nan if
    unknown, shape [configurations]."""
    left = np.inf if budget is None else budget
    price = np.zeros(len(cost)) if budget is None else np.nan_to_num(cost, nan=np.inf)
    best = np.full(len(draws), -np.inf)
    chosen: list[int] = []
    while len(chosen) < most:
        able = [i for i in np.flatnonzero(price <= left) if i not in chosen]
        if not able:
            break
        gains = np.maximum(best[:, None], draws[:, able]).mean(axis=0)
        chosen.append(int(able[int(gains.argmax())]))
        left -= price[chosen[-1]]
        best = np.maximum(best, draws[:, chosen[-1]])
    return chosen


def ranks_left_out(scores: pd.DataFrame, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """(best, worst) rank of each configuration by expected accuracy, leaving out one dataset at a
    time; shape [configurations] each."""
    found = deviations(scores)
    mix = weights([*scores.index])
    ranks = []
    for left_out in scores.columns if len(scores.columns) > 1 else [None]:
        part = found.drop(columns=left_out) if left_out is not None else found
        shares = chances(part, dataset)
        known = part.notna().to_numpy() * shares
        total = mix @ (part.fillna(0).to_numpy() @ shares) / (mix @ known.sum(axis=1))
        ranks.append(pd.Series(total).rank(method="min", ascending=False).to_numpy())
    return np.min(ranks, axis=0), np.max(ranks, axis=0)


def table(advice: Advice, dataset: str) -> Sheet:
    """A row per pick, in the order to try them, for a terminal."""
    own = any(one.measured is not None for one in advice.picks)
    heads = (">GPU-hours", ">expected", ">rank", ">best", *[f">on {dataset}"] * own)
    shown = Sheet("backbone", "loss", *heads, stub=2)
    for one in advice.picks:
        hours = "unknown" if one.hours is None else f"{one.hours:.3g}"
        rank = f"{one.low} to {one.high}"
        cells = (hours, f"{one.expected:.1f} %", rank, f"{one.best:.0f} %")
        measured = "" if one.measured is None else f"{one.measured:.1f} %"
        shown.add_row(one.backbone, one.loss, *cells, *[measured] * own)
    return shown

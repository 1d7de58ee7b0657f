"""Audit of the Guide's measurements: numbers that are impossible, and names that are wrong.

Every line is computed from the frame; `analysis.guide.claims` audits the conclusions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis.guide import claims
from analysis.guide.design import (
    CELL,
    CONFIGURATION,
    DATASETS,
    FAMILIES,
    METRICS,
    facts,
    params,
    size_of,
)
from analysis.guide.measurements import records
from analysis.guide.ranking import competing, rank
from analysis.tables import some
from core.config.registry import backbones, known_classes

IMAGES = {**dict.fromkeys(DATASETS.values(), 1000), "uc-merced-land-use-dataset": 420}
"""Dataset -> number of test images that the paper uses."""
LEFT = 0.75
"""Share of a test set that is left if one of four GPUs does not report."""
WHOLE = 1e-6
"""Tolerance for a number of images to count as whole."""
LOW = 0.05
"""Clean accuracy, in [0, 1], below which a model counts as having learnt nothing."""
CHANCE = 1.5
"""Multiple of chance below which a model counts as guessing."""
LETTERS = {"base": "b", "small": "s", "tiny": "t"}
"""Size in a backbone's id -> letter in its short name."""

Lines = Iterator[str]


def report(frame: pd.DataFrame) -> str:
    """The whole audit, of measurements and claims, as Markdown."""
    done = frame[frame["state"] == "done"]
    parts = {title: [*found(done)] for title, found in {**SECTIONS, **claims.SECTIONS}.items()}
    return "\n\n".join(
        f"## {title} ({len(lines)})\n\n" + "\n".join(f"- {line}" for line in lines or ["none"])
        for title, lines in parts.items()
    )


def partial_tests(frame: pd.DataFrame) -> Lines:
    """Accuracies that are impossible on the whole test set."""
    known = frame[frame["dataset"].isin(IMAGES)]
    images = known["dataset"].map(IMAGES).to_numpy(float)
    values = known[list(METRICS)].to_numpy()
    odd = _impossible(values, images)
    part = odd & ~_impossible(values, images * LEFT)
    if not odd.any():
        return
    yield (
        f"{part.sum()} of {odd.size} accuracies are no multiple of 1/1000 (1/420 on UC Merced) but "
        "one of 1/750 (1/315): a quarter of the images is missing "
        f"({_counted(dict(zip(METRICS, part.sum(axis=0), strict=True)))}); as every third "
        "multiple of 1/750 is also one of 1/1000, about half as many again cannot be detected"
    )
    if (odd & ~part).any():
        yield f"{(odd & ~part).sum()} accuracies are multiples of neither"
    rows = odd.any(axis=1)
    by_protocol = known[rows].groupby("protocol", sort=False).size().to_dict()
    yield (
        f"{rows.sum()} of {len(known)} rows have such an accuracy ({_counted(by_protocol)}), "
        f"{odd.all(axis=1).sum()} in all five: in the others, sums and ranks mix test sets"
    )


def robust_above_clean(frame: pd.DataFrame) -> Lines:
    """Robust accuracies above the clean one: on the same images, AutoAttack can only turn right
    answers wrong, so that images must be missing from one of the two."""
    for metric in METRICS[1:4]:
        above = frame[frame[metric] > frame["clean"]]
        if above.empty:
            continue
        (worst,) = records(above.loc[[(above[metric] - above["clean"]).idxmax()]])
        explained = _explicable(above[above["dataset"].isin(IMAGES)], metric)
        yield (
            f"{metric} is above clean in {len(above)} rows, at most by "
            f"{100 * (worst[metric] - worst['clean']):.2f} points "
            f"({', '.join(worst[name] for name in CELL)}: {worst[metric]:.4f} against "
            f"{worst['clean']:.4f}); a quarter of the images missing from one or both can explain "
            f"{explained.sum()} of them, but not {(~explained).sum()}"
        )
    above = frame[frame["common"] > frame["clean"]]
    if len(above):
        yield (
            f"common is above clean in {len(above)} rows, which is possible; "
            f"{_guessing(above).sum()} of them are at chance"
        )


def low_cells(frame: pd.DataFrame) -> Lines:
    """How many models learnt nothing, and how high they rank."""
    for protocol, rows in frame.groupby("protocol", sort=False):
        zeros = {metric: int((rows[metric] == 0).sum()) for metric in METRICS}
        yield (
            f"{protocol}: clean accuracy below {100 * LOW:.0f} % in "
            f"{(rows['clean'] < LOW).sum()} of {len(rows)} rows, below {CHANCE:g} times chance in "
            f"{_guessing(rows).sum()}; zeros: {_counted(zeros)}"
        )
    same = frame[list(METRICS[1:4])].eq(frame["clean"], axis=0).all(axis=1)
    if same.any():
        yield (
            f"{same.sum()} rows have the same accuracy clean and under all attacks, at most "
            f"{100 * frame.loc[same, 'clean'].max():.1f} %: one answer for every image"
        )
    clean = competing(frame).groupby(CONFIGURATION)["clean"].mean().rename("clean")
    table = rank(frame).join(clean, on=CONFIGURATION).dropna(subset="rank")
    for protocol, rows in table.groupby("protocol", sort=False):
        for top in records(rows[rows["clean"] < 2 * LOW].head(1)):
            beaten = rows[(rows["rank"] > top["rank"]) & (rows["clean"] > 0.5)]
            yield (
                f"{protocol}: {top['backbone']} with {top['loss']} has rank {top['rank']} of "
                f"{len(rows)} at a mean clean accuracy of {100 * top['clean']:.1f} %, before "
                f"{len(beaten)} configurations above 50 %: those lose all accuracy under attack "
                "and share the last place there, while guessing is hard to attack"
            )


def products(frame: pd.DataFrame) -> Lines:
    """Effects of taking the product (`geom`) for the geometric mean, as it is called."""
    able = competing(frame)
    yield "geom is the product of the five accuracies, not their geometric mean, its fifth root"
    roots = able.assign(root=able["geom"] ** (1 / len(METRICS)))
    scores = roots.groupby(CONFIGURATION, sort=False)[["geom", "root"]].sum()
    for protocol, rows in scores.groupby("protocol", sort=False):
        places = rows.rank(method="min", ascending=False)
        yield (
            f"{protocol}: the sum of products is 0 for {(rows['geom'] == 0).sum()} of {len(rows)} "
            f"configurations; by geometric means, {(places['geom'] != places['root']).sum()} ranks "
            "would differ"
        )


def names(frame: pd.DataFrame) -> Lines:
    """Names and classes of backbones that contradict their ids or our registry."""
    known = frame.drop_duplicates("backbone")
    for name, rows in known.groupby("name", sort=False):
        if len(rows) > 1:
            yield f"{name} names {len(rows)} backbones: {', '.join(rows['backbone'])}"
    for backbone in known["backbone"]:
        yield from _misnamed(str(backbone))
    odd = sorted({name for name in known["name"] if "ink" in name})
    if odd:
        yield f"ImageNet-22k is spelled ink22k in {some(odd)}, in22k elsewhere"


def _misnamed(backbone: str) -> Lines:
    said, true = facts(backbone), params(backbone)
    size = re.search(r"_(base|small|tiny)", backbone)
    letter = re.match(r"[a-z0-9]+_([bst])\b", said.name)
    if size and letter and LETTERS[size[1]] != letter[1]:
        yield f"{backbone} is called {said.name}"
    if true is not None and size_of(true) != said.size:
        yield (
            f"{backbone} is classed as {said.size}; its {true / 1e6:.1f} M parameters make it "
            f"{size_of(true)}"
        )
    entry = backbones().get(backbone)
    if entry and FAMILIES.get(entry.family, said.type) != said.type:
        yield f"{backbone} is typed {said.type}; it is {FAMILIES[entry.family]}"


def _impossible(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Which accuracies are not a whole number of right images, bool, shape [rows, metrics]. images:
    shape [rows]."""
    counts = values * images[:, None]
    return np.asarray(np.abs(counts - np.round(counts)) > WHOLE)


def _explicable(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Which rows can have a robust accuracy above the clean one because images are missing: the
    images right under attack are at most those right when clean plus those missing from the clean
    test. Tests count as whole or partial, as the accuracies allow."""
    images = frame["dataset"].map(IMAGES).to_numpy(float)
    found = np.zeros(len(frame), dtype=bool)
    for share, clean_share in product((1, LEFT), repeat=2):
        attacked, clean = frame[metric] * images * share, frame["clean"] * images * clean_share
        able = ~_impossible(frame[[metric]].to_numpy(), images * share)[:, 0]
        able &= ~_impossible(frame[["clean"]].to_numpy(), images * clean_share)[:, 0]
        untested = images * (1 - clean_share)
        found |= able & (attacked <= clean + untested + WHOLE).to_numpy()
    return pd.Series(found, frame.index)


def _guessing(frame: pd.DataFrame) -> pd.Series:
    """Which rows are not clearly above chance; False on datasets with an unknown number of
    classes."""
    ours = {theirs: name for name, theirs in DATASETS.items()}
    classes = {name: known_classes(ours.get(name, name)) for name in frame["dataset"].unique()}
    chance = {name: 1 / count for name, count in classes.items() if count}
    return frame["clean"] < CHANCE * frame["dataset"].map(chance)


def _counted(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


SECTIONS: Mapping[str, Callable[[pd.DataFrame], Lines]] = {
    "Accuracies of a part of the test set": partial_tests,
    "Attacked accuracy above the clean one": robust_above_clean,
    "Models that learnt nothing": low_cells,
    "The product called geometric mean": products,
    "Names and classes": names,
}

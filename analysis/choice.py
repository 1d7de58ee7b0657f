"""Which rows of a frame a table shows: those of one evaluation, of attacks, of two-hinge runs."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from analysis.names import METRICS
from core.config import ConfigError, nearest


def one_evaluation(frame: pd.DataFrame, eval_id: str | None = None) -> pd.DataFrame:
    """The rows of one evaluation, by default the `usual` one of the attacks, so that a table never
    mixes attacks. Raises ConfigError if there is no `eval_id`.
    """
    if eval_id is not None and eval_id not in (known := set(frame["eval_id"])):
        raise ConfigError(f"unknown evaluation '{eval_id}'{nearest(eval_id, known)}")
    if eval_id is None and len(frame):
        # Kinds other than attacks have separate tables.
        rows = attacked(frame)
        eval_id = usual(rows if len(rows) else frame)
    return frame[frame["eval_id"] == eval_id]


def usual(frame: pd.DataFrame) -> str:
    """The evaluation with the most rows in the norm that runs are trained for, then with the most
    rows at all; the first of several. frame: not empty."""
    # Lists, as iterating over columns of text takes four times as long.
    own = Counter(frame.loc[frame["eval_norm"] == frame["norm"], "eval_id"].tolist())
    every = Counter(frame["eval_id"].tolist())
    return str(max(every, key=lambda name: (own[name], every[name])))


def attacked(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of attacks."""
    if "metric" not in frame:  # curves, which only attacks have
        return frame
    return frame.loc[frame["metric"].isin(METRICS)]


def under_attacks(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs evaluated by several attacks, with evaluations named by their attack."""
    frame = attacked(frame)
    named = frame[frame["eval_id"] != ""]
    attacks = named[named["attack"] != ""].drop_duplicates("eval_id")
    names = dict(zip(attacks["eval_id"], attacks["attack"], strict=True))
    if len(set(names.values())) < len(names):
        names = {}
    named = named.assign(eval_id=named["eval_id"].map(lambda eval_id: names.get(eval_id, eval_id)))
    run = ["model", "dataset", "epsilon_g", "norm", "setting", "seed", "variant"]
    several = named.groupby(run, dropna=False)["eval_id"].transform("nunique") > 1
    return named[several]


def by_hinges(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of two-hinge runs, with settings named by T1 and T2, for the pairs that have other
    hinges than those of fix and sched.

    If a source lists T1=0;T2=0 itself, that number is taken instead of the one for `fix`.
    """
    hinged = frame[frame["T1"].notna()]
    pair = ["variant", "model", "dataset"]
    studied = hinged[hinged["setting"] == hinged["hinges"]][pair].drop_duplicates()
    hinged = hinged.merge(studied, on=pair)
    own = hinged["setting"] == hinged["hinges"]
    cell = [*pair, "epsilon_g", "norm", "hinges"]
    listed = own.groupby([hinged[name] for name in cell]).transform("any")
    hinged = hinged[own | ~listed]
    return hinged.assign(setting=hinged["hinges"]).sort_values(["T1", "T2"], kind="stable")

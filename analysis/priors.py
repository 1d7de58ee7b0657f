"""Published values for the runs of a plan, in percent: what to expect before they are run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.guide.design import CELL, METRICS, Cell, cell_of
from analysis.guide.measurements import published, records
from analysis.guide.own import STRENGTHS
from analysis.names import dataset_name, model_name
from analysis.published import TABLES, load_published
from analysis.rounding import percent
from core.config import Strength

GUIDE = "guide"
MEAN = "mean"
"""Name of the mean of the Guide's five accuracies."""
USUAL = 50, "full", "at"
"""Epochs, protocol and objective of every run in the paper's tables."""
PLACE = ("model", "dataset", "epsilon_g", "norm")
Known = dict[str, dict[str, float]]
"""Run id -> metric -> percent, for runs with published values."""


def find_published(manifest: Iterable[Mapping[str, Any]], tables: Sequence[str]) -> Known:
    """Published values of runs. tables: those that the grid feeds; for 'guide' the five accuracies
    and their mean, else clean, adv and expected under APGD from the paper's tables named there (all
    of them if none is)."""
    if GUIDE in tables:
        return _of_guide(manifest)
    numbers = [number for number in TABLES if str(number) in tables]
    return _of_paper(manifest, numbers)


def _of_guide(manifest: Iterable[Mapping[str, Any]]) -> Known:
    printed = {
        Cell(*(row[name] for name in CELL)): {
            **{name: percent(row[name]) for name in METRICS},
            MEAN: percent(row["sum"] / len(METRICS)),
        }
        for row in records(published())
    }
    found = {}
    for run in manifest:
        cell = cell_of(run["config"], run["setting"])
        if _strength(run) == STRENGTHS["linf"] and cell in printed:
            found[run["id"]] = printed[cell]
    return found


def _of_paper(manifest: Iterable[Mapping[str, Any]], numbers: Sequence[int]) -> Known:
    printed: dict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
    frame = load_published(*numbers)
    for row in records(frame[frame["attack"].isin(("", "APGD")) & frame["value"].notna()]):
        place = *(row[name] for name in PLACE), row["hinges"] or row["setting"]
        printed[place].setdefault(row["metric"], row["value"])
    found = {}
    for run in manifest:
        config, strength = run["config"], _strength(run)
        names = model_name(config["backbone"]), dataset_name(config["dataset"])
        schedule, setting = config["schedule"], run["setting"]
        if schedule["kind"] == "two_hinge":
            setting = f"T1={schedule['T1']};T2={schedule['T2']}"
        place = *names, strength.in_255ths, strength.norm, setting
        usual = config["epochs"], config["protocol"], config["objective"]["kind"]
        if usual == USUAL and place in printed:
            found[run["id"]] = printed[place]
    return found


def _strength(run: Mapping[str, Any]) -> Strength:
    return Strength.parse(run["config"]["epsilon_g"], run["config"]["norm"])

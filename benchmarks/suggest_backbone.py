"""Do the suggestions of `sweep suggest-backbone` beat simple rules on unseen datasets?

    python benchmarks/suggest_backbone.py [--out FILE.md]

Each of the six published datasets is held out in turn. A rule sees the other five and spends a
budget of GPU-hours on configurations, whose results are the published accuracies on the dataset
held out. Its regret is the accuracy of the best of all configurations there, minus that of the best
one tried, in points of the mean over a threat model. The rules: the suggestions; the largest
backbones first; the published ranking (Borda counts over all five accuracies), from the other five
datasets. Each rule skips what the rest of the budget does not cover, and goes on until nothing
fits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from report import RESULTS, Report
from scipy import stats

from analysis.guide import advice
from analysis.guide.design import DATASETS, LOSSES, METRICS, params
from analysis.guide.measurements import published
from analysis.guide.ranking import points
from core.store.folders import Store
from sweep.cli.guide import hours_of
from sweep.launcher import load_profile

PROTOCOL = "FFT (50 epochs)"
BUDGETS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)
THREATS = {
    "all five": METRICS,
    "linf": ("linf",),
    "l2": ("l2",),
    "l1": ("l1",),
    "common": ("common",),
    "clean, linf": ("clean", "linf"),
    "clean, common": ("clean", "common"),
    "linf, l2, l1": ("linf", "l2", "l1"),
}
RULES = ("suggested", "biggest", "Borda")
Key = tuple[str, str]
Hours = Mapping[Key, float]


def tries(order: list[Key], hours: Hours, budget: float) -> Iterator[Key]:
    """The configurations that a budget covers, tried in order."""
    for one in order:
        if hours[one] <= budget:
            budget -= hours[one]
            yield one


def orders(seen: pd.DataFrame, able: list[Key]) -> dict[str, list[Key]]:
    """The rules that are fixed orders, from the datasets seen: rule -> configurations."""
    borda = points(seen).sum(axis=1).groupby([seen["backbone"], seen["loss"]]).sum()
    by_borda = sorted(able, key=lambda one: -borda[one])
    by_size = sorted(able, key=lambda one: (-(params(one[0]) or 0), -LOSSES.index(one[1])))
    return {"Borda": by_borda, "biggest": by_size}


def regrets(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per dataset held out, threat model, budget and rule; budget inf means a single try."""
    rows = []
    for ours, held_out in DATASETS.items():
        known = hours_of(ours, PROTOCOL, Store.at("outputs"), load_profile("local"))
        hours = {one: cost for one, cost in known.items() if cost is not None}
        seen = frame[frame["dataset"] != held_out]
        fixed = orders(seen, [*hours])
        for (threat, metrics), budget in product(THREATS.items(), (*BUDGETS, np.inf)):
            truth = advice.scores_of(frame, PROTOCOL, metrics)[held_out]
            limit, most = (None, 1) if np.isinf(budget) else (budget, len(hours))
            about = {"protocol": PROTOCOL, "metrics": metrics, "budget": limit, "most": most}
            found = advice.advise(seen, hours, **about)
            chosen = {"suggested": [(pick.published, pick.loss) for pick in found.picks]}
            for rule, order in fixed.items():
                chosen[rule] = order[:1] if most == 1 else [*tries(order, hours, budget)]
            for rule, picks in chosen.items():
                regret = 100 * (truth.max() - max(truth[one] for one in picks))
                rows.append((held_out, threat, budget, rule, regret))
    return pd.DataFrame(rows, columns=["dataset", "threat", "budget", "rule", "regret"])


def write(report: Report, found: pd.DataFrame) -> None:
    within = found[np.isfinite(found["budget"])]
    single = found[np.isinf(found["budget"])]
    report.section("Mean regret in points, by budget", "GPU-hours", *RULES)
    for budget, rows in within.groupby("budget"):
        report.row(f"{budget:g}", *_means(rows))
    report.row("all budgets", *_means(within))
    report.row("a single try", *_means(single))
    report.section("By dataset held out, all budgets", "dataset", *RULES)
    for dataset, rows in within.groupby("dataset", sort=False):
        report.row(dataset, *_means(rows))
    report.section("By threat model, all budgets", "accuracies", *RULES)
    for threat, rows in within.groupby("threat", sort=False):
        report.row(threat, *_means(rows))
    report.section("Is it luck?")
    for title, rows in (("within budgets", within), ("a single try", single)):
        table = rows.pivot_table(index="dataset", columns="rule", values="regret")
        for rule in RULES[1:]:
            gain = table[rule] - table["suggested"]
            wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
            p = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
            report.say(
                f"- {title}, {rule} less suggested: {gain.mean():+.2f} points; suggested is better "
                f"on {wins} of {len(gain)} datasets, worse on {losses} (sign test over datasets: "
                f"p = {p:.2f})"
            )


def _means(rows: pd.DataFrame) -> list[str]:
    means = rows.groupby("rule")["regret"].mean()
    return [f"{means[rule]:.2f}" for rule in RULES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "suggest_backbone.md")
    report = Report(
        "Suggested backbones on datasets held out",
        "python benchmarks/suggest_backbone.py. Regret against the best of the 78 configurations "
        "of full fine-tuning for 50 epochs whose cost is known, in points of the mean over the "
        f"accuracies that count; mean over {len(THREATS)} threat models and the six datasets. Each "
        "published cell was trained once. Constants were not fitted, but about ten rules (means, "
        "medians, ranks, a Gaussian process) were tried on these datasets before this one was "
        "kept: its lead is likely smaller on others.",
    )
    frame = published()
    write(report, regrets(frame[frame["protocol"] == PROTOCOL].reset_index(drop=True)))
    report.write(parser.parse_args().out)


if __name__ == "__main__":
    main()

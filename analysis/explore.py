"""Example of results in a notebook or script: from a store to a frame, then plain pandas.

    python -m analysis.explore outputs

`analysis.load` returns one row per (run, evaluation, eps_g, metric). Unmeasured ones have value NaN
and the cause in `state` and `reason`. `Results` adds the curves, epochs and runs behind them.
"""

from __future__ import annotations

import sys

from analysis import Results, load
from analysis.statistics import median_delay
from core.errors import counted


def main(root: str) -> None:
    frame = load(root)
    done = frame[frame["state"] == "done"]
    origin = counted(done["run_id"].nunique(), "run")
    print(f"{len(done)} of {len(frame)} numbers are there, from {origin}\n")

    # What does the schedule gain? Pairs with only one setting become NaN.
    cell = ["model", "dataset", "norm", "epsilon_g", "metric"]
    mean = done.groupby([*cell, "setting"])["value"].mean().unstack("setting")
    print("sched minus fix (points)")
    print((mean["sched"] - mean["fix"]).unstack("metric").round(2), "\n")

    # Epochs until validation accuracy exceeds `threshold`. For a run that never adapted `delay` is
    # its number of epochs, a lower bound, so the medians are Kaplan-Meier estimates.
    runs = Results(root).table
    runs = runs[runs["delay"].notna()]
    print("adaptation delay: median epochs (inf: never), and how many runs never adapted")
    for setting, mine in runs.groupby("setting"):
        never = (mine["delay"] >= mine["epochs"]).sum()
        print(setting, median_delay(mine["delay"], mine["epochs"]), f"{never} of {len(mine)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "outputs")

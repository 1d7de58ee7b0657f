"""Numbers of runs with BatchNorm over other counts of images than in like runs, marked in tables.

BatchNorm takes its statistics over a micro-batch, which follows memory: unless a config fixes it,
runs that differ in nothing else may differ in this.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from analysis.results import Results
from analysis.runs import Run
from analysis.tables import NAMED, Table
from analysis.tuned import noted, place, place_name

SECTION = "\N{SECTION SIGN}"


def uneven(results: Results) -> dict[tuple[str, ...], list[int]]:
    """Where runs are whose counts changed while they trained, or are not the usual ones of their
    model and batch (see `analysis.tuned.place`), with the counts of all runs there."""
    alike: dict[tuple[object, ...], list[tuple[Run, tuple[int, ...]]]] = defaultdict(list)
    counts: dict[tuple[str, ...], set[int]] = defaultdict(set)
    table = results.table
    told = dict(zip(table["run_id"], table["batchnorm_images"], strict=True))
    for run in results.runs:
        images = tuple(map(int, told[run.dir.id].split()))
        if images:
            config = run.config
            kind = config["backbone"], config["batch"], config.get("batchnorm_images")
            alike[kind].append((run, images))
            counts[place(run)].update(images)
    odd = set()
    for runs in alike.values():
        ((usual, _),) = Counter(images for _, images in runs).most_common(1)
        odd |= {place(run) for run, images in runs if images != usual or len(images) > 1}
    return {where: sorted(counts[where], reverse=True) for where in odd}


def sentence(results: Results) -> str | None:
    """Which numbers these are, or None."""
    found = uneven(results)
    if not found:
        return None
    texts = [f"{place_name(at)} ({', '.join(map(str, found[at]))})" for at in sorted(found)]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return (
        "BatchNorm over other counts of images than in like runs, or over changing ones: "
        f"{', '.join(texts[:NAMED])}{more}; set batchnorm_images to fix it"
    )


def flagged(table: Table, results: Results) -> Table:
    """The table with a mark at these numbers, and a note."""
    text = sentence(results)
    return noted(table, uneven(results), text, SECTION) if text else table

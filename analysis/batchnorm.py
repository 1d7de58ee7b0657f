"""Marks in tables for runs whose BatchNorm averages over other numbers of images than in comparable
runs.

BatchNorm takes its statistics over a micro-batch, whose size depends on memory: unless the config
fixes it, otherwise equal runs may differ in this.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from analysis.results import Results
from analysis.runs import Run
from analysis.tables import NAMED, Table
from analysis.tuned import noted, place, place_name

SECTION = "\N{SECTION SIGN}"


def uneven(results: Results) -> dict[tuple[str, ...], list[int]]:
    """Place in tables (see `analysis.tuned.place`) -> the numbers of images per BatchNorm statistic
    of all runs there, for places with a run whose number changed during training or is not the most
    common one for its model and batch."""
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
    """A sentence that lists these places, or None if there are none."""
    found = uneven(results)
    if not found:
        return None
    texts = [f"{place_name(at)} ({', '.join(map(str, found[at]))})" for at in sorted(found)]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return (
        "BatchNorm over other numbers of images than in comparable runs, or over changing ones: "
        f"{', '.join(texts[:NAMED])}{more}; set batchnorm_images to keep the number constant"
    )


def flagged(table: Table, results: Results) -> Table:
    """The table with a mark at the cells of these places, and a note."""
    text = sentence(results)
    return noted(table, uneven(results), text, SECTION) if text else table

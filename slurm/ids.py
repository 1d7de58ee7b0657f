"""Ids of jobs and tasks: "7", "7_3", and Slurm's expressions for several, "7_[0-2,5%4]"."""

import re
from collections.abc import Iterable


def expand(job: str) -> list[str]:
    """The single ids of an expression: "7_[0-2,5%4]" -> 7_0, 7_1, 7_2, 7_5.

    Ranges may have steps ("0-8:4"). Of a truncated expression the last item is dropped, since its
    number may lack digits.

    >>> expand("7_[0-2,5%4]")
    ['7_0', '7_1', '7_2', '7_5']
    """
    base, bracket, inside = job.partition("_[")
    if not bracket:
        return [job]
    items = re.split("[]%]", inside)[0].split(",")
    complete = items if re.search("[]%]", inside) else items[:-1]
    return [f"{base}_{index}" for item in complete for index in _indices(item)]


def compress(ids: Iterable[str]) -> list[str]:
    """The reverse of `expand`: one expression per array, to keep command lines short."""
    tasks: dict[str, set[int]] = {}
    whole = set()
    for job in ids:
        base, _, index = job.partition("_")
        indices = tasks.setdefault(base, set())
        if index:
            indices.add(int(index))
        else:
            whole.add(base)
    return [base if base in whole else f"{base}_[{_spans(ts)}]" for base, ts in tasks.items()]


def _indices(item: str) -> range:
    span, _, step = item.partition(":")
    first, _, last = span.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def _spans(indices: Iterable[int]) -> str:
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)

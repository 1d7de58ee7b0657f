"""Helpers of the benchmarks: CPU seconds, gates, and a page in Markdown.

The page states machine, load and commit of its numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.machine import runtime
from core.store import source

RESULTS = Path(__file__).parent / "results"
Work = Callable[[], object]


def seconds(variants: dict[str, Work], repetitions: int) -> dict[str, float]:
    """CPU seconds of each variant: the minimum of `repetitions`, which other processes affect
    least. Variants alternate, after one warm-up round."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for repetition in range(repetitions + 1):
        for name, work in variants.items():
            start = time.process_time()
            work()
            if repetition:
                spent[name].append(time.process_time() - start)
    return {name: min(values) for name, values in spent.items()}


@dataclass
class Report:
    """A page that is printed line by line; `write` stores it."""

    title: str
    about: str
    lines: list[str] = field(default_factory=list)
    gates: list[tuple[str, float, float]] = field(default_factory=list)
    load: tuple[float, float, float] = field(default_factory=os.getloadavg)

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def section(self, title: str, *columns: str) -> None:
        """Add a heading and, if columns are given, the head of a table."""
        self.say(f"\n## {title}\n")
        if columns:
            self.row(*columns)
            self.row(*["---"] * len(columns))

    def row(self, *cells: object) -> None:
        shown = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)
        self.say(f"| {' | '.join(shown)} |")

    def gate(self, name: str, value: float, limit: float) -> None:
        """Add a gate: `value` must not exceed `limit`."""
        self.gates.append((name, value, limit))

    def close(self) -> bool:
        """Print the gates; returns whether all of them hold."""
        if self.gates:
            self.section("Gates", "gate", "measured", "limit", "")
        for name, value, limit in self.gates:
            self.row(name, f"{value:.3f}", f"{limit:g}", "pass" if value <= limit else "MISS")
        return all(value <= limit for _, value, limit in self.gates)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        head = [f"# {self.title}", "", self.about, "", *self.machine()]
        path.write_text("\n".join([*head, *self.lines]) + "\n")
        print(f"written to {path}")

    def machine(self) -> list[str]:
        about = runtime.describe()
        before, after = (
            ", ".join(f"{n:.1f}" for n in load) for load in (self.load, os.getloadavg())
        )
        return [
            f"* machine: {about['device']}, {os.cpu_count()} CPU cores, torch {torch.__version__}, "
            f"{torch.get_num_threads()} thread(s)",
            f"* load average at the start: {before}; at the end: {after}",
            f"* commit: {source.commit()}",
        ]

"""A plan on a terminal: its counts, a row for each run, and why runs failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from core.config import ConfigError
from core.errors import counted
from core.sheet import Sheet
from sweep.state.plan import Plan
from sweep.state.status import State, Status

COLOURS = {
    State.NEW: "dim",
    State.PENDING: "dim",
    State.RUNNING: "cyan",
    State.INTERRUPTED: "yellow",
    State.UNEVALUATED: "yellow",
    State.DAMAGED: "red",
    State.STALE: "yellow",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
    State.DONE: "green",
}
ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.DAMAGED, State.STALE})
REASONED = frozenset({State.FAILED, State.CANCELLED, State.INTERRUPTED, State.DAMAGED, State.STALE})
ROWS = 30
"""Maximum number of runs to show; of a larger sweep, only those under way are shown."""


class Clock:
    """Estimates the time left from how much work was done while watching."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.base: float | None = None

    def left(self, seen: Plan) -> float | None:
        """Seconds until every run has ended; None while unknown."""
        work = sum(1.0 if s.state in ENDED else done_share(s) for s in seen.statuses)
        if self.base is None:
            self.base = work
        if work - self.base <= 0:
            return None
        return (len(seen.statuses) - work) * (time.monotonic() - self.started) / (work - self.base)


def done_share(status: Status) -> float:
    """Share of a run's work that is done, in [0, 1], counting evaluation as the last tenth."""
    if status.state is State.DONE:
        return 1.0
    if status.state is State.UNEVALUATED:  # its share is that of evaluations which are done
        return 0.9
    if status.phase == "evaluate":
        return 0.9 + 0.1 * status.share
    return 0.9 * status.share


def duration(seconds: float | None) -> str:
    """'1:02:03', '4:05' or '-'."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress(status: Status) -> str:
    """'train, epoch 3/50, 1:02:03 left' for a running run; '' for any other."""
    if status.state is not State.RUNNING:
        return ""
    at = f"epoch {status.epoch}/{status.run.config.epochs}"
    doing = f"{status.phase}, {at}" if status.phase else at
    return doing + (f", {duration(status.left_s)} left" if status.left_s is not None else "")


def counts_line(seen: Plan) -> Text:
    """'12 done, 2 running, 6 new', in the states' colours."""
    parts = [
        Text(f"{seen.counts[state]} {state}", style=COLOURS[state])
        for state in State
        if seen.counts[state]
    ]
    return Text(", ").join(parts) if parts else Text("no runs")


def table(
    seen: Plan,
    clock: Clock | None = None,
    *,
    screen: Console | None = None,
    footer: bool = True,
    most: int = ROWS,
    page: int | None = None,
    spent: bool = False,
) -> Group:
    """The state of every run, or of those under way if there are more than `most`. screen: the
    terminal that everything must fit into. page: instead show page 1, 2, ... of `most` runs each,
    in the plan's order. spent: show how long each run was held by a process. Raises ConfigError
    beyond the last page."""
    why, rows = reasons(seen), most
    if screen:  # shorten the rows, so that the reasons and counts below them stay visible
        why = reasons(seen, max(1, screen.height // 3))
        for line in why:
            line.no_wrap, line.overflow = True, "ellipsis"
        rows = min(ROWS, max(0, screen.height - len(why) - 2))
    shown = list(zip(seen.statuses, _names(seen.statuses), strict=True))
    if page:
        pages = max(1, -(-len(shown) // most))
        if page > pages:
            raise ConfigError(
                f"--page {page}: expected 1 to {pages}, pages of {counted(most, 'run')}"
            )
        shown = shown[(page - 1) * most : page * most]
    elif len(shown) > rows:
        under_way = (State.RUNNING, State.FAILED, State.DAMAGED, State.INTERRUPTED)
        shown = [row for state in under_way for row in shown if row[0].state is state][:rows]
    grid = Sheet(padding=(0, 1, 0, 0))
    grid.add_column("run", no_wrap=True, overflow="ellipsis")
    grid.add_column("state", no_wrap=True, min_width=11)
    grid.add_column("epoch", justify="right", no_wrap=True, min_width=5)
    grid.add_column("", min_width=0)  # the bar, the first to shrink on a narrow terminal
    grid.add_column("images/s", justify="right", no_wrap=True, min_width=8)
    grid.add_column("left", justify="right", no_wrap=True, min_width=5)
    if spent:
        grid.add_column("spent", justify="right", no_wrap=True, min_width=7)
    for status, name in shown:
        grid.add_row(name, *_cells(status), *[duration(status.seconds)] * spent)
    counts = counts_line(seen)
    if clock:
        counts.append(f"   left {duration(clock.left(seen))}", style="bold")
    head: list[RenderableType] = [grid] if shown else []
    hidden = len(seen.statuses) - len(shown)
    if page:
        head.append(Text(f"page {page} of {pages}", style="dim"))
    elif hidden and not screen:
        what = "more runs" if shown else "runs, none under way"
        how = "see `sweep status GRID --page 1` or `--all`"
        head.append(Text(f"{hidden} {what}; {how}", style="dim"))
    return Group(*head, *why, *([counts] if footer else []))


def _names(statuses: Sequence[Status]) -> list[str]:
    """The runs' ids without their hash, or with its first four digits if names are equal."""
    parts = [status.run.id.rpartition("-") for status in statuses]
    alike = Counter(name for name, _, _ in parts)
    return [f"{name}-{mark[:4]}" if alike[name] > 1 else name for name, _, mark in parts]


def reasons(seen: Plan, most: int = ROWS) -> list[Text]:
    """One line per distinct reason for which runs failed or stopped, at most `most`; the last line
    counts the others."""
    alike: dict[tuple[State, str], list[str]] = {}
    for status in seen.statuses:
        waits = status.state is State.NEW and status.run.config.parent
        if status.reason and (status.state in REASONED or status.held or waits):
            # The class is left out if the reason or the state already says it.
            told = status.kind in (None, status.state) or status.reason.startswith(status.kind)
            why = status.reason if told else f"{status.kind}: {status.reason}"
            alike.setdefault((status.state, why), []).append(status.run.id)
    lines = [
        Text.assemble(
            (f"{state}", COLOURS[state]),
            f" {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {why}",
        )
        for (state, why), names in list(alike.items())[:most]
    ]
    if len(alike) > most:
        lines.append(Text(f"... and {counted(len(alike) - most, 'other reason')}", style="dim"))
    return lines


def _bar(share: float, width: int = 12) -> Text:
    """A progress bar that is readable without colours, as in a file."""
    full = int(share * width)
    bar = "\u2588" * full + "\u2591" * (width - full)
    return Text(bar, no_wrap=True, overflow="crop")


def _cells(status: Status) -> list[Text | str]:
    label = status.phase if status.state is State.RUNNING and status.phase else str(status.state)
    begun = status.attempts > 0
    left = status.left_s
    return [
        Text(label, style=COLOURS[status.state]),
        f"{status.epoch}/{status.run.config.epochs}" if begun else "",
        _bar(status.share) if begun else "",
        f"{status.images_per_s:,.0f}" if status.state is State.RUNNING else "",
        duration(left) if left is not None else "",
    ]

"""Watching runs: a live display until they have ended, and replacing local workers that die."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from core.config import ConfigError
from core.data.digests import Known
from core.errors import StoppedError, counted
from core.sheet import Sheet
from core.store.files import exists
from core.store.folders import Store
from core.store.json_files import read_jsonl
from sweep.grid import Run
from sweep.state import joblog, pending, plan
from sweep.state.pending import Pending
from sweep.state.plan import Plan, State, Status
from sweep.submit.backend import Crew
from sweep.worker import custody
from sweep.worker.stop import stoppable

if TYPE_CHECKING:
    from sweep.submit.backend import Job

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
SCHEDULER_S = 15.0
"""Seconds between questions to the scheduler while watching."""
ROWS = 30
"""Most runs to show; of a larger sweep, only those that are under way."""


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


def wait(
    crew: Crew, runs: Sequence[Run], store: Store, console: Console, *, every: float = 0.5
) -> Plan:
    """Show progress until every worker has ended; replace workers that die while work is left.
    Returns the final plan.

    Ctrl-C (or SIGTERM) stops the workers, leaves their runs resumable, and raises StoppedError.
    """
    clock, known, promised = Clock(), Known(store), promises(crew)

    def look(working: bool) -> Plan:
        return plan.make(runs, store, promised if working else {}, known=known)

    seen = attend(
        crew,
        console,
        look,
        show=lambda seen, screen: table(seen, clock, screen=screen),
        brief=counts_line,
        left=lambda seen: bool(seen.of({State.PENDING, *plan.LAUNCHABLE})),
        spare=3 * len(runs),
        every=every,
    )
    if not console.is_terminal:
        console.print(table(seen))
    if seen.of(plan.LAUNCHABLE):
        for word in dict.fromkeys(filter(None, map(_last_word, crew.jobs))):
            console.print(
                Text(f"a worker ended before its runs did: {word}", style="red"), soft_wrap=True
            )
    return seen


def promises(crew: Crew) -> dict[str, Pending]:
    """Run id -> the crew's promise to do the run."""
    return pending.of_process(read_jsonl(crew.manifest), crew.jobs[0].job_id) if crew.jobs else {}


def _last_word(job: Job) -> str | None:
    """Why a worker did not finish its list; None if it did."""
    results = [job.task(number).paths.result_pickle for number in range(job.num_tasks)]
    if all(custody.outcome(result) == "success" for result in results):
        return None
    said = joblog.last_line(joblog.tail(Path(job.paths.stderr)))
    return f"{said or 'it died'}; see {job.paths.folder}"


_Seen = TypeVar("_Seen")


def attend(
    crew: Crew,
    console: Console,
    look: Callable[[bool], _Seen],
    *,
    show: Callable[[_Seen, Console | None], RenderableType],
    brief: Callable[[_Seen], Text],
    left: Callable[[_Seen], bool],
    spare: int,
    every: float = 0.5,
) -> _Seen:
    """Look and show until every worker has ended; returns the last look. Raises StoppedError, once
    the workers have stopped.

    look: told whether any worker is running. show: told the screen to fit into, None at the end.
    brief: a line for a file or a pipe, printed when it changes. left: whether there is work left
    for a replacement of a worker that died; at most `spare` workers are replaced."""
    spoken, said = 0.0, ""
    with stoppable(), _display(console) as live:
        try:
            while True:
                running = [job for job in crew.jobs if not job.done()]
                seen = look(bool(running))
                if live:
                    live.update(show(seen, console if running else None))
                elif time.monotonic() - spoken > 15 and (line := brief(seen)).plain != said:
                    console.print(line)
                    spoken, said = time.monotonic(), line.plain
                jobs = enumerate(crew.jobs)
                crashed = [n for n, job in jobs if job not in running and not _ended(job)]
                if crashed and left(seen) and spare > 0:
                    spare -= len(crashed)
                    # Keep the number: it determines the GPUs, and the others' are in use.
                    for number in crashed:
                        crew.jobs[number] = crew.start(number)
                elif not running:
                    return seen
                time.sleep(every)
        except StoppedError:
            crew.stop()
            raise


def _ended(job: Job) -> bool:
    """Whether a worker finished its list or raised: submitit then writes a result."""
    return exists(job.paths.result_pickle)


@contextmanager
def _display(console: Console) -> Iterator[Live | None]:
    """A live display on a terminal; None for a file or a pipe."""
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield live


def follow(look: Callable[[], Plan], console: Console, *, every: float = 2.0) -> None:
    """Refresh the table until nothing is running or pending, or Ctrl-C: every `every` seconds, or
    every 15 s if the scheduler has to be asked."""
    clock = Clock()
    with _display(console) as live:
        while True:
            seen = look()
            if live:
                live.update(table(seen, clock, screen=console))
            if not (seen.counts[State.RUNNING] or seen.counts[State.PENDING]):
                break
            time.sleep(SCHEDULER_S if seen.asked else every)
        if live:
            live.update(table(seen, clock))
    if live is None:
        console.print(table(seen))

"""Watching runs: a live display until they have ended, and replacing local workers that die."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from core.data.digests import Known
from core.errors import StoppedError
from core.store.files import exists
from core.store.folders import Store
from sweep.grid import Run
from sweep.state import display, joblog, pace, pending, plan
from sweep.state.pending import Pending
from sweep.state.plan import Plan, State
from sweep.submit.backend import Crew
from sweep.worker import custody
from sweep.worker.stop import stoppable

if TYPE_CHECKING:
    from sweep.submit.backend import Job

SCHEDULER_S = 15.0
"""Seconds between questions to the scheduler while watching."""


def wait(
    crew: Crew, runs: Sequence[Run], store: Store, console: Console, *, every: float = 0.5
) -> Plan:
    """Show progress until every worker has ended; replace workers that die while work is left.
    Returns the final plan.

    Ctrl-C (or SIGTERM) stops the workers, leaves their runs resumable, and raises StoppedError.
    """
    clock, known, promised = display.Clock(), Known(store), promises(crew)
    seen = Plan(())

    def look(working: bool) -> Plan:
        nonlocal seen
        seen = plan.make(runs, store, promised if working else {}, known=known, before=seen)
        return seen

    seen = attend(
        crew,
        console,
        look,
        show=lambda seen, screen: display.table(seen, clock, screen=screen),
        brief=display.counts_line,
        left=lambda seen: bool(seen.of({State.PENDING, *plan.LAUNCHABLE})),
        spare=3 * len(runs),
        every=every,
    )
    if not console.is_terminal:
        console.print(display.table(seen))
    if seen.of(plan.LAUNCHABLE):
        for word in dict.fromkeys(filter(None, map(_last_word, crew.jobs))):
            console.print(
                Text(f"a worker ended before its runs did: {word}", style="red"), soft_wrap=True
            )
    return seen


def promises(crew: Crew) -> dict[str, Pending]:
    """Run id -> the crew's promise to do the run."""
    if not crew.jobs:
        return {}
    return pending.of_process(pending.read(crew.manifest), crew.jobs[0].job_id)


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

    Every `every` seconds it sees which workers are running; it looks at the runs when that has
    changed, and otherwise as often as sweep.state.pace allows.

    look: told whether any worker is running. show: told the screen to fit into, None at the end.
    brief: a line for a file or a pipe, printed when it changes. left: whether there is work left
    for a replacement of a worker that died; at most `spare` workers are replaced."""
    spoken, said, due, before = 0.0, "", 0.0, -1
    with stoppable(), _display(console) as live:
        try:
            while True:
                running = [job for job in crew.jobs if not job.done()]
                if len(running) != before or time.monotonic() >= due:
                    begun = time.thread_time() if due else None
                    before = len(running)
                    seen = look(bool(running))
                    if live:
                        live.update(show(seen, console if running else None), refresh=True)
                    elif time.monotonic() - spoken > 15 and (line := brief(seen)).plain != said:
                        console.print(line)
                        spoken, said = time.monotonic(), line.plain
                    due = time.monotonic() + pace.pause(begun)
                jobs = enumerate(crew.jobs)
                crashed = [n for n, job in jobs if job not in running and not _ended(job)]
                if crashed and left(seen) and spare > 0:
                    spare, before = spare - len(crashed), -1
                    # Keep the worker's number: it determines its GPUs, and all others are in use.
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
    """A live display on a terminal, drawn when it is updated; None for a file or a pipe."""
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False) as live:
        yield live


def follow(look: Callable[[Plan], Plan], console: Console, *, every: float = 2.0) -> None:
    """Refresh the table until nothing is running or pending, or Ctrl-C: every `every` seconds, or
    every 15 s if the scheduler has to be asked, or less often, see sweep.state.pace. look: gets the
    plan of the look before, an empty one at first."""
    clock, seen = display.Clock(), Plan(())
    with _display(console) as live:
        while True:
            begun = time.thread_time() if seen.statuses else None
            seen = look(seen)
            if live:
                live.update(display.table(seen, clock, screen=console), refresh=True)
            if not (seen.counts[State.RUNNING] or seen.counts[State.PENDING]):
                break
            time.sleep(pace.pause(begun, SCHEDULER_S if seen.asked else every))
        if live:
            live.update(display.table(seen, clock), refresh=True)
    if live is None:
        console.print(display.table(seen))

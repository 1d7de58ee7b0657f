"""`sweep sync`: upload offline W&B runs, several at a time.

Each attempt of a run leaves an offline segment that repeats the epochs before it. So the last
segment is the whole run, in the order of steps, and the only one uploaded. W&B's own marker file
shows what is uploaded; repeating the command uploads the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event

from core.config import ConfigError
from core.store.files import read
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from core.store.tracking import ATTEMPT, environment, login_problem
from sweep.grid import Run

AT_ONCE = 4
"""Uploads at the same time; the service limits requests per minute."""
PATIENCE_S = 300.0
"""Longest wait for one segment, which normally takes seconds: without a network W&B retries for
ever."""


def segments(runs: Sequence[Run], store: Store) -> list[Path]:
    """The last offline segment of each run, if it is not uploaded yet. Not of running runs, whose
    segments still grow."""
    last = (_last(store.run(run.id)) for run in runs)
    return [folder for folder in last if folder and not any(folder.glob("*.wandb.synced"))]


def _last(run: RunDir) -> Path | None:
    owner = find_holder(run)
    if owner and owner.live:
        return None
    return max(run.tracking.glob("offline-run-*"), key=_order, default=None)


def _order(segment: Path) -> tuple[int, float]:
    """Sort key: the attempt (0 in segments of older versions), then the time of the last change.
    Not the name: it holds a local time, which jumps with time zones and daylight saving."""
    attempt = int(read(segment / ATTEMPT) or 0)
    return attempt, max((file.stat().st_mtime for file in segment.glob("*.wandb")), default=0.0)


def check_login() -> None:
    """Raise ConfigError if W&B has no login here."""
    problem = login_problem()
    if problem:
        raise ConfigError(f"W&B: {problem}")


def upload_segments(folders: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Upload segments; yields each with the reason it failed, or None if it is uploaded. Once one
    gets no answer in time, those that have not begun are not tried."""
    mute = Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {pool.submit(_upload_segment, folder, mute): folder for folder in folders}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _upload_segment(folder: Path, mute: Event) -> str | None:
    if mute.is_set():
        return "not tried: W&B does not answer"
    process = subprocess.Popen(
        [sys.executable, "-m", "wandb", "sync", "--no-include-online", str(folder)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        mute.set()
        os.killpg(process.pid, signal.SIGKILL)  # the group, as wandb starts a service process
        process.communicate()
        return f"W&B did not answer in {PATIENCE_S:g} s"
    if process.returncode == 0 and any(folder.glob("*.wandb.synced")):
        return None
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"wandb sync ended with {process.returncode}"

"""`sweep sync`: upload offline W&B runs, several at a time.

Each attempt of a run leaves an offline segment that repeats the epochs before it, so that of the
last attempt is the whole run: it alone is uploaded, in step order by construction. W&B's own marker
file says what is uploaded; repeating the command goes on with the rest.
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
from core.store.files import present
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from core.store.tracking import ATTEMPT, environment, login_problem
from sweep.grid import Run

AT_ONCE = 4
"""Uploads at the same time; the service limits requests per minute."""
PATIENCE_S = 300.0
"""Seconds for one segment, which takes seconds: W&B itself tries for ever without a network."""


def segments(runs: Sequence[Run], store: Store) -> list[Path]:
    """The last offline segment of each run that is not uploaded yet; none of runs at work, whose
    segment grows."""
    last = (_last(store.run(run.id)) for run in runs)
    return [folder for folder in last if folder and not any(folder.glob("*.wandb.synced"))]


def _last(run: RunDir) -> Path | None:
    owner = find_holder(run)
    if owner and owner.live:
        return None
    return max(run.tracking.glob("offline-run-*"), key=_order, default=None)


def _order(segment: Path) -> tuple[int, float]:
    """By attempt, which older versions did not note, then by the last change. Their names hold a
    local time, which jumps with time zones and in autumn."""
    attempt = int(present((segment / ATTEMPT).read_bytes) or 0)
    return attempt, max((file.stat().st_mtime for file in segment.glob("*.wandb")), default=0.0)


def check_login() -> None:
    """Raises ConfigError if nothing can be uploaded from here."""
    problem = login_problem()
    if problem:
        raise ConfigError(f"W&B: {problem}")


def upload_segments(folders: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Upload segments; yields each with the reason it failed, None where it is up. Once one got no
    answer in time, those that have not begun are left."""
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
        os.killpg(process.pid, signal.SIGKILL)  # with the service that it has started
        process.communicate()
        return f"W&B did not answer in {PATIENCE_S:g} s"
    if process.returncode == 0 and any(folder.glob("*.wandb.synced")):
        return None
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"wandb sync ended with {process.returncode}"

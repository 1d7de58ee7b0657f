"""`sweep sync`: upload offline W&B runs, several at a time.

Each attempt of a run leaves an offline segment that repeats the epochs before it, so the newest
segment is the whole run: it alone is uploaded, in step order by construction. W&B's own marker file
says what is uploaded; repeating the command goes on with the rest.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from core.rundir import RunDir, Store
from sweep.grid import Run

AT_ONCE = 4
"""Uploads at the same time; the service limits requests per minute."""


def segments(runs: Sequence[Run], store: Store) -> list[Path]:
    """The newest offline segment of each run that is not uploaded yet."""
    newest = (_newest(store.run(run.id)) for run in runs)
    return [folder for folder in newest if folder and not any(folder.glob("*.wandb.synced"))]


def _newest(run: RunDir) -> Path | None:
    # Their names hold the time of their start.
    return max(run.tracking.glob("offline-run-*"), key=lambda path: path.name, default=None)


def upload(folders: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Upload segments; yields each with the reason it failed, None where it is up."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {pool.submit(_upload, folder): folder for folder in folders}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _upload(folder: Path) -> str | None:
    command = [sys.executable, "-m", "wandb", "sync", "--no-include-online", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0 and any(folder.glob("*.wandb.synced")):
        return None
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return said[-1].strip() if said else f"wandb sync ended with {done.returncode}"

"""An attempt that stops itself (SIGSTOP) before the n-th thing it does to its run folder, and one
that takes the run over meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny
import torch

from core.config import EvalConfig
from core.options import Options
from core.store.folders import Store
from core.store.holder import Holder
from sweep.grid.search import Search
from sweep.tune import trial_job
from sweep.worker import attempt

torch.set_num_threads(1)
ACTS = ("open", "os.", "shutil.")
"""Audit events of calls that name files."""


def stop_before(n: int, folder: Path, thread: str = "MainThread") -> list[tuple[str, str]]:
    """SIGSTOP this process before the n-th call of a thread that names a file in the folder.
    Returns the list to which every such call is added: its name and the file's."""
    acts: list[tuple[str, str]] = []

    def count(call: str, about: object) -> None:
        inside = str(about).startswith(str(folder))
        if inside and threading.current_thread().name.startswith(thread):
            acts.append((call, str(about).removeprefix(str(folder))))
            if len(acts) == n:
                os.kill(os.getpid(), signal.SIGSTOP)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(ACTS):
            paths = (item for item in arguments if isinstance(item, str | Path))
            count(event, next((path for path in paths if str(path).startswith(str(folder))), ""))

    sync = os.fsync

    def fsync(handle: int) -> None:  # no event of its own; between the writing and the rename
        count("fsync", os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(hook)
    return acts


def call_all_dead() -> None:
    """Take whoever holds a run for dead, as after minutes without a heartbeat."""
    Holder.live = Holder.hung = property(lambda self: False)  # type: ignore[assignment, method-assign]


def run(
    root: Path, fields: Mapping[str, Any], evals: list[Any], said: Path, n: int, thread: str
) -> None:
    """An attempt at a whole run, as a node makes it; what became of it goes to `said`, and what it
    did, if it is to be stopped, to the file `acts` beside it. n: 0 for the one that takes over."""
    config, store = tiny.config(**fields), Store(root)
    asked = [EvalConfig.parse(item) for item in evals]
    acts = _prepare(n, store.run(config.id).path, thread)
    options = Options(tracking="none", images=20)
    said.write_text(attempt.make(config, asked, store, options))
    _tell(acts, said)


def trial(root: Path, search: Mapping[str, Any], said: Path, n: int, thread: str) -> None:
    """The same of a trial."""
    wanted = Search.parse(search, root / "tuned")
    folder = wanted.trial_dir(0)
    acts = _prepare(n, folder.path, thread)
    claim = trial_job.claim_trial(folder)
    how: dict[str, Any] = {}

    def work() -> None:
        assert claim
        trial_job.conduct(wanted, 0, claim, Store(root), how)

    said.write_text(attempt.conduct(claim, work, "trial", None) if claim else "skipped")
    _tell(acts, said)


def _prepare(n: int, folder: Path, thread: str) -> list[tuple[str, str]]:
    if n:
        os.environ["EPSWEEP_HEARTBEAT_S"] = "0.01" if thread != "MainThread" else "60"
        return stop_before(n, folder, thread)
    call_all_dead()
    return []


def _tell(acts: list[tuple[str, str]], said: Path) -> None:
    if acts:
        said.with_name("acts").write_text(json.dumps(acts))

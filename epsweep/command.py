"""The command `sweep`, whatever packages the user's path has: core, analysis and the like are names
of many projects, and PYTHONPATH comes before what is installed.

Outside of them, since a `sweep` of the user's would be found in place of ours.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("core", "sweep", "slurm", "analysis")
HERE = str(Path(__file__).resolve().parents[1])


class Ours:
    """Finds this program's packages where it is installed; leaves all else to the path."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [HERE]) if name in PACKAGES else None


def prefer_ours() -> None:
    """From now on `core`, `sweep`, `slurm` and `analysis` are ours in this process."""
    if Ours not in sys.meta_path:
        sys.meta_path.insert(0, Ours)


def main() -> None:
    """Entry point of the console script."""
    prefer_ours()
    gc.disable()  # what is imported stays: looking for garbage in it again and again takes 0.1 s
    with without_traceback():
        from sweep.cli import main as run
    gc.freeze()
    gc.enable()
    run()


@contextmanager
def without_traceback() -> Iterator[None]:
    """While modules are imported, Ctrl-C ends the process at once: nothing has to be put in order,
    and what a half-imported library makes of an exception is anybody's guess."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else who called us wants it ignored
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

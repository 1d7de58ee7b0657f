"""Entry point of the command `sweep`, which finds this project's packages under any PYTHONPATH.

Other projects have packages called core, analysis and the like, and PYTHONPATH precedes installed
packages. This module is in `epsweep`, since another `sweep` might be found in place of ours.
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
    """An import finder for the packages of this installation; other names are left to sys.path."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [HERE]) if name in PACKAGES else None


def prefer_ours() -> None:
    """Make imports of `core`, `sweep`, `slurm` and `analysis` find this installation's packages."""
    if Ours not in sys.meta_path:
        sys.meta_path.insert(0, Ours)


def main() -> None:
    """Entry point of the console script."""
    prefer_ours()
    gc.disable()  # imported modules stay; collecting garbage among them takes 0.1 s
    with without_traceback():
        from sweep.cli import main as run
    gc.freeze()
    gc.enable()
    run()


@contextmanager
def without_traceback() -> Iterator[None]:
    """While modules are imported, let Ctrl-C end the process at once: there is nothing to clean up,
    and half-imported libraries handle exceptions unpredictably."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # otherwise the caller wants it ignored
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

"""The command `sweep`, whatever packages the user's path has: core, analysis and the like are names
of many projects, and PYTHONPATH comes before what is installed.

A module of its own, since a `sweep` of the user's would be found in place of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("core", "sweep", "slurm", "analysis")
HERE = str(Path(__file__).resolve().parent)


class Ours:
    """Finds this program's packages where it is installed; leaves all else to the path."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [HERE]) if name in PACKAGES else None


def main() -> None:
    """Entry point of the console script."""
    sys.meta_path.insert(0, Ours)
    from sweep.cli import main as run

    run()

"""A frozen copy of the code: what queued jobs run, whatever is edited after the launch.

The four packages are copied as they are on disk (commit and uncommitted changes alike) to
`code/<hash of their content>` in the sweep's folder; jobs put it first on their path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path

from core import source
from core.rundir import SweepDir, write_json

PACKAGES = ("core", "sweep", "slurm", "analysis")


def snapshot(sweep: SweepDir) -> Path:
    """The folder with the frozen packages; made once per content."""
    target = sweep.path / "code" / fingerprint()
    if not target.is_dir():
        _copy(target)
    return target


def fingerprint() -> str:
    """16 hex digits of the packages' content."""
    digest = hashlib.sha256()
    for name, file in _files():
        digest.update(f"{name}/{file.relative_to(_package(name))}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec and spec.submodule_search_locations, name
    return Path(spec.submodule_search_locations[0])


def _files() -> list[tuple[str, Path]]:
    """(package, file) of every file but caches, sorted."""
    found = []
    for name in PACKAGES:
        paths = (path for path in _package(name).rglob("*") if path.is_file())
        found += [(name, path) for path in sorted(paths) if "__pycache__" not in path.parts]
    return found


def _copy(target: Path) -> None:
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    for name, file in _files():
        place = draft / name / file.relative_to(_package(name))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    write_json(draft / source.FROZEN, source.state())
    try:
        os.rename(draft, target)
    except OSError:  # another launch made the same copy meanwhile
        shutil.rmtree(draft)

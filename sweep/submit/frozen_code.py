"""A frozen copy of the code: what queued jobs run, whatever is edited after the launch.

The four packages are copied as they are on disk (commit and uncommitted changes alike) to
`code/<hash of their content>` in the sweep's folder; jobs put it first on their path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from core.store import source
from core.store.folders import SweepDir, write_json

PACKAGES = ("core", "sweep", "slurm", "analysis")


def snapshot(sweep: SweepDir) -> Path:
    """The folder with the frozen packages; made once per content."""
    files = _read()
    target = sweep.path / "code" / _hash(files)
    if not target.is_dir():
        _write(target, files)
    return target


def fingerprint() -> str:
    """16 hex digits of the packages' content."""
    return _hash(_read())


def _read() -> dict[str, bytes]:
    """path below the copy -> content of every file but caches: read once, so that an edit
    meanwhile cannot end up under the hash of what was there before."""
    found = {}
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec and spec.submodule_search_locations, name
        package = Path(spec.submodule_search_locations[0])
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"{name}/{path.relative_to(package)}"] = path.read_bytes()
    return found


def _hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    for name, content in files.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).write_bytes(content)
    write_json(draft / source.FROZEN, {**source.state(), "code": target.name})
    try:
        os.rename(draft, target)
    except OSError:
        shutil.rmtree(draft)
        if not target.is_dir():  # else another launch made the same copy meanwhile
            raise

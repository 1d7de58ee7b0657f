"""A frozen copy of the code, which queued jobs run, so that later edits do not change them.

The four packages, and packages of the user that runs name, are copied as they are on disk
(uncommitted changes included) to `code/<hash of their content>` in the sweep's folder, which jobs
put first on their path. Code installed in site-packages is not copied: it belongs to the
environment. Only modules and a package's own data are copied, not private or large files that lie
among them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from core.config import own_code
from core.config.own_code import FROZEN
from core.store import source
from core.store.folders import SweepDir
from core.store.json_files import write_json
from sweep.worker import custody

PACKAGES = ("core", "sweep", "slurm", "analysis")
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of the environment, which jobs use unchanged."""
DATA = (".yaml", ".csv", ".md", ".js", ".css", ".j2")
"""A package's data besides modules, if neither git nor an installation lists its files."""


class File(NamedTuple):
    content: bytes
    mode: int


Code = Collection[tuple[str, str]]
"""(import path, digest) pairs of the user's code, see Run.code."""


def snapshot(sweep: SweepDir, code: Code = ()) -> Path:
    """The folder with the frozen packages, made once per content and user. Raises ConfigError if
    the user's code was edited since the runs were planned."""
    own_code.check(code)
    files = _read(code)
    target = _place(sweep, files)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with custody.own():
            _write(target, files)
    return target


def place(sweep: SweepDir, code: Code = ()) -> Path:
    """The folder that `snapshot` would return."""
    return _place(sweep, _read(code))


def _place(sweep: SweepDir, files: Mapping[str, File]) -> Path:
    """`code/<hash>`, or a similar name if there is a copy that others could have changed."""
    name = _hash(files)
    for suffix in ("", f"-{os.geteuid()}"):
        target = sweep.path / "code" / f"{name}{suffix}"
        if not target.is_dir() or custody.is_own(target):
            return target
    return target.with_name(f"{name}-{uuid.uuid4().hex[:8]}")


def _read(code: Code) -> dict[str, File]:
    """Path within the copy -> file, for every file of the packages. Read once for both the hash and
    the copy, so that an edit in between cannot make them differ."""
    tops = []
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec and spec.submodule_search_locations, name
        tops.append(Path(spec.submodule_search_locations[0]))
    own = {own_code.locate(dotted).top for dotted, _ in code}
    tops += sorted(top for top in own if not INSTALLED & {*top.parts})
    found = {}
    for top in tops:
        for path in sorted(_files(top)) if top.is_dir() else [top]:
            mode = path.stat().st_mode & 0o755
            found[str(path.relative_to(top.parent))] = File(path.read_bytes(), mode)
    return found


def _files(package: Path) -> Iterator[Path]:
    """A package's modules, including those that git does not track yet, and data."""
    tracked = source.tracked(package)
    known = tracked or _installed(package)
    for path in package.rglob("*"):
        below = path.relative_to(package).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in below)
        if hidden or not path.is_file() or not path.resolve().is_relative_to(package.resolve()):
            continue
        module = path.suffix == ".py" and (tracked or not known)
        if module or path in known or (not known and path.suffix in DATA):
            yield path


def _installed(package: Path) -> set[Path]:
    """The files that our installation put into a package's folder, which other distributions may
    share; empty if epsweep is not installed."""
    from importlib import metadata  # 0.04 s to import; only a launch needs it

    try:
        files = metadata.files("epsweep") or ()
    except metadata.PackageNotFoundError:
        return set()
    found = (Path(str(file.locate())) for file in files)
    return {path for path in found if path.is_relative_to(package)}


def _hash(files: Mapping[str, File]) -> str:
    digest = hashlib.sha256()
    for name, (content, _) in files.items():
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _write(target: Path, files: Mapping[str, File]) -> None:
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    for name, (content, mode) in files.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).touch(mode)
        (draft / name).write_bytes(content)
        (draft / name).chmod(mode)
    write_json(draft / FROZEN, {**source.state(), "code": target.name})
    try:
        os.rename(draft, target)
    except OSError:
        shutil.rmtree(draft)
        if not target.is_dir():  # else another launch made the same copy meanwhile
            raise

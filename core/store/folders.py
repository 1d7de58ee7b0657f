"""Where things lie on disk: every path of a store and of a run folder, and atomic writes.

A file is written beside its place, flushed to disk, then renamed over it: a reader sees the old
content or the new one, never half of either, also when the disk fills up or the process dies.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import yaml

from core.config import settings
from core.config.values import at_home
from core.errors import DamagedError
from core.store.shapes import AnyObject, misfit

if TYPE_CHECKING:
    from core.store.fence import Fence

_T = TypeVar("_T")
Write = Callable[[Path, Callable[[IO[bytes]], object]], None]
"""How a file is written: write_atomic, or RunDir.write."""
_LOOKS = 4
_PAUSE_S = 0.05

log = logging.getLogger("epsweep")


def is_gone(error: OSError) -> bool:
    """Whether an error says that there is no such file, or no such folder (any more). NFS has a
    word of its own (ESTALE) for what another node has removed or replaced."""
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return missing or error.errno == errno.ESTALE


def present(look: Callable[[], _T]) -> _T | None:
    """What `look` finds, None if the file or its folder is not there. What is stale may only have
    been replaced: look again, a few times. Raises any other OSError."""
    for left in reversed(range(_LOOKS)):
        try:
            return look()
        except OSError as error:
            if not is_gone(error):
                raise
            if error.errno != errno.ESTALE:
                break
            time.sleep(_PAUSE_S if left else 0)
    return None


def exists(path: Path) -> bool:
    """Whether there is a file or folder at `path`."""
    return present(path.stat) is not None


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    present(path.unlink)


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], *, drafts: Path | None = None
) -> None:
    """Call `write` on a temporary file, beside `path` or in the folder `drafts`, then rename it to
    `path`. Raises OSError; `path` keeps its old content then, and nothing is left behind."""
    if drafts is None:
        drafts = path.parent
        drafts.mkdir(parents=True, exist_ok=True)
    draft = drafts / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        with open(draft, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        remove(draft)


def copy_atomic(path: Path, target: Path, *, drafts: Path) -> None:
    """Atomically replace `target` by what is in `path`: a second name for it, or where the disk has
    no hard links across folders, a copy."""
    draft = drafts / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        try:
            os.link(path, draft)
        except OSError:
            shutil.copyfile(path, draft)
        os.replace(draft, target)
    finally:
        remove(draft)


def write_text(path: Path, text: str) -> None:
    """Atomically replace `path` by `text`, UTF-8."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically replace `path` by one JSON object."""
    write_text(path, json_text(value))


def json_text(value: Mapping[str, Any]) -> str:
    """One JSON object as a file has it, readable for people."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Atomically replace `path` by one JSON object a line."""
    write_text(path, jsonl_text(rows))


def jsonl_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON objects as a file has them, one a line."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def read_json(path: Path, shape: object = AnyObject) -> dict[str, Any] | None:
    """The object in `path`, None if there is no such file. shape: of core.store.shapes.

    Raises DamagedError.
    """
    text = present(path.read_bytes)
    return None if text is None else parse_json(text, path, shape)


def read_jsonl(path: Path, shape: object = AnyObject) -> list[dict[str, Any]]:
    """The rows of `path`, [] if there is no such file, without a last one that was cut off while
    it was written. Raises DamagedError."""
    return [parse_json(line, path, shape) for line in _lines(path)]


def salvage(path: Path, shape: object = AnyObject) -> list[dict[str, Any] | None]:
    """The rows of `path`, None in the place of each that is damaged; these are logged once."""
    rows: list[dict[str, Any] | None] = []
    for line in _lines(path):
        try:
            rows.append(parse_json(line, path, shape))
        except DamagedError as error:
            warn_once(f"{error}; this row is left out")
            rows.append(None)
    return rows


@cache
def warn_once(text: str) -> None:
    """Log a line, the first time in this process."""
    log.warning("%s", text)


def _lines(path: Path) -> list[bytes]:
    *whole, last = (present(path.read_bytes) or b"").split(b"\n")
    lines = [line for line in whole if line.strip()]
    return lines if _is_torn(last) else [*lines, last]


def _is_torn(last: bytes) -> bool:
    """Whether what follows the last line break is nothing, or the beginning of an object."""
    if not last.startswith(b"{"):
        return not last
    try:
        json.loads(last)
    except ValueError:
        return True
    return False


def parse_json(text: bytes, path: Path, shape: object = AnyObject) -> dict[str, Any]:
    """The object that `text` of `path` is. Raises DamagedError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise DamagedError(path, f"not whole JSON ({error})") from None
    problem = misfit(value, shape)
    if problem:
        raise DamagedError(path, problem)
    checked: dict[str, Any] = value
    return checked


def read_end(path: Path, most: int) -> bytes:
    """The last bytes of a file, at most so many; none if there is no such file."""

    def read() -> bytes:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return file.read()

    return present(read) or b""


def set_aside(path: Path) -> None:
    """Rename a damaged file to `<name>.damaged`, for a person to look at; the newest one stays."""
    present(partial(os.replace, path, aside(path)))


def aside(path: Path) -> Path:
    """Where a damaged file is kept."""
    return path.with_name(f"{path.name}.damaged")


@dataclass(frozen=True)
class RunDir:
    """The folder of one run. Its files are the truth about the run; see docs/internals.md.

    fence: of the attempt that changes it, see core.store.fence; None for those who only look."""

    path: Path
    fence: Fence | None = None

    def fenced(self, fence: Fence | None) -> RunDir:
        """The same folder, changed through `fence`."""
        return replace(self, fence=fence)

    def write(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        """As write_atomic. This and what follows raises OSError, and NotOwnedError if another
        attempt has taken the run over."""
        if self.fence:
            self.fence.write(path, write)
        else:
            write_atomic(path, write)

    def write_text(self, path: Path, text: str) -> None:
        """Atomically replace `path` by text, UTF-8."""
        self.write(path, lambda file: file.write(text.encode()))

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Atomically replace `path` by one JSON object."""
        self.write_text(path, json_text(value))

    def write_jsonl(self, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Atomically replace `path` by one JSON object a line."""
        self.write_text(path, jsonl_text(rows))

    def copy(self, path: Path, target: Path) -> None:
        """Atomically replace `target` by what is in `path`."""
        if self.fence:
            self.fence.copy(path, target)
        else:
            copy_atomic(path, target, drafts=self.path)

    def remove(self, path: Path) -> None:
        """Delete a file if it is there."""
        if self.fence:
            self.fence.remove(path)
        else:
            remove(path)

    def set_aside(self, path: Path) -> None:
        """As the function of that name."""
        if exists(path):
            self.copy(path, aside(path))
            self.remove(path)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def env(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.path / "checkpoint.previous.pt"

    @property
    def checkpoints(self) -> tuple[Path, Path]:
        """The newest one, and the one before it."""
        return self.checkpoint, self.previous_checkpoint

    @property
    def begun(self) -> bool:
        """Whether anything was made yet that a further attempt would go on from."""
        return any(exists(file) for file in (self.result, *self.checkpoints))

    @property
    def replaced(self) -> Path:
        """Numbers that were made from inputs which have changed since, one folder per time."""
        return self.path / "replaced"

    @property
    def result(self) -> Path:
        """Exists if and only if the training and the evaluations it names are on disk."""
        return self.path / "result.json"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts.jsonl"

    @property
    def cancel(self) -> Path:
        """A request to stop this run and not to start it again until it is asked for."""
        return self.path / "cancel.json"

    @property
    def repair(self) -> Path:
        """What retries have changed about how this run is executed."""
        return self.path / "repair.json"

    @property
    def memory(self) -> Path:
        """What a training step keeps in memory; only in rehearsals."""
        return self.path / "memory.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def tracking(self) -> Path:
        return self.path / "wandb"

    @property
    def evals(self) -> Path:
        return self.path / "evals"

    def eval_json(self, eval_id: str) -> Path:
        return self.evals / f"{eval_id}.json"

    def eval_flags(self, eval_id: str) -> Path:
        return self.evals / f"{eval_id}.npz"

    def holds(self, result: Mapping[str, Any], evals: Iterable[str]) -> bool:
        """Whether a result names these evaluations and all are there: one that somebody has deleted
        is to be made again."""
        return all(name in result["evals"] and exists(self.eval_json(name)) for name in evals)

    def evals_on_disk(self) -> Iterator[str]:
        """Ids of the evaluations that are there as a whole, whoever has asked for them."""
        for file in self.evals.glob("*.json"):
            if exists(self.eval_flags(file.stem)):
                yield file.stem

    def forget_results(self) -> None:
        """Delete the result, then every evaluation, finished or not."""
        for file in (self.result, *self.evals.glob("*")):
            self.remove(file)

    def read_config(self) -> dict[str, Any]:
        """The resolved config. Raises DamagedError."""
        try:
            config = yaml.load(self.config.read_bytes(), Loader=yaml.CSafeLoader)
        except (yaml.YAMLError, ValueError) as error:  # no YAML, or no UTF-8
            said = " ".join(str(error).split())
            raise DamagedError(self.config, f"not whole YAML ({said})") from None
        if problem := misfit(config, AnyObject):
            raise DamagedError(self.config, problem)
        checked: dict[str, Any] = config
        return checked

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Record the resolved config once; an identical file is left alone."""
        text = yaml.safe_dump(dict(config), sort_keys=False)
        if present(self.config.read_bytes) != text.encode():
            self.write_text(self.config, text)


@dataclass(frozen=True)
class SweepDir:
    """The folder of one sweep: what was asked for and what was submitted."""

    path: Path

    @property
    def grid(self) -> Path:
        return self.path / "grid.yaml"

    @property
    def manifest(self) -> Path:
        """One row per run of the grid, in order: id, setting, config, evals."""
        return self.path / "manifest.jsonl"

    @property
    def submissions(self) -> Path:
        return self.path / "submissions.jsonl"

    @property
    def failures(self) -> Path:
        """Runs that failed, by what their tracebacks have in common."""
        return self.path / "failures"

    @property
    def logs(self) -> Path:
        return self.path / "logs"


@dataclass(frozen=True)
class Store:
    """The folder that holds everything: `./outputs`, `--root` or `EPSWEEP_ROOT`."""

    root: Path

    @classmethod
    def at(cls, root: str | Path | None = None) -> Store:
        """The store at `root`, else at $EPSWEEP_ROOT, else at ./outputs; always absolute. Raises
        ConfigError for a path that cannot be used."""
        return cls(at_home(at_home(root or settings.root()).absolute()))

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def data(self) -> Path:
        """Datasets: one folder per name, and the prepared arrays."""
        return at_home(settings.data() or self.root / "data").absolute()

    @property
    def weights(self) -> Path:
        """Local checkpoints that a config may name."""
        return self.root / "weights"

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.runs / run_id)

    def sweep(self, name: str) -> SweepDir:
        return SweepDir(self.root / "sweeps" / name)

    def sweeps(self) -> list[SweepDir]:
        """Those that were launched, by name."""
        return [SweepDir(path) for path in sorted((self.root / "sweeps").glob("*/"))]

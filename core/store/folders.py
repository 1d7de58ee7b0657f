"""Where things are on disk: every path of a store, a sweep and a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from core.config import settings
from core.config.values import at_home
from core.errors import DamagedError
from core.store.files import aside, copy_atomic, exists, present, read, remove, write_atomic
from core.store.json_files import json_text, jsonl_text, misfit
from core.store.shapes import AnyObject

if TYPE_CHECKING:
    from core.store.fence import Fence

ENV, METRICS, RESULT = "env.json", "metrics.jsonl", "result.json"
ATTEMPTS, CANCEL, REPAIR = "attempts.jsonl", "cancel.json", "repair.json"
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")


def eval_names(eval_id: str) -> tuple[str, str]:
    """The files of an evaluation in a run folder: its record and its flags."""
    return f"evals/{eval_id}.json", f"evals/{eval_id}.npz"


@dataclass(frozen=True)
class RunDir:
    """The folder of a run, the only source of truth about it; see docs/internals.md.

    fence: that of the attempt which changes the folder, see core.store.fence; None for readers."""

    path: Path
    fence: Fence | None = None

    def fenced(self, fence: Fence | None) -> RunDir:
        """The same folder, changed through `fence`."""
        return replace(self, fence=fence)

    def write(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file as write_atomic does. All methods that change the folder raise OSError, and
        NotOwnedError if another attempt has taken the run over."""
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
        """Atomically replace `path` by JSON objects, one per line."""
        self.write_text(path, jsonl_text(rows))

    def copy(self, path: Path, target: Path) -> None:
        """Atomically replace `target` by the content of `path`."""
        if self.fence:
            self.fence.copy(path, target)
        else:
            copy_atomic(path, target, drafts=self.path)

    def remove(self, path: Path) -> None:
        """Delete a file if it exists."""
        if self.fence:
            self.fence.remove(path)
        else:
            remove(path)

    def set_aside(self, path: Path) -> None:
        """Rename a damaged file to `<name>.damaged`, replacing an older one."""
        if exists(path):
            self.copy(path, aside(path))
            self.remove(path)

    def names(self) -> set[str]:
        """Names of the files and folders in it."""
        return set(present(partial(os.listdir, self.path)) or ())

    @cached_property
    def id(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def env(self) -> Path:
        return self.path / ENV

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINTS[0]

    @property
    def previous_checkpoint(self) -> Path:
        return self.path / CHECKPOINTS[1]

    @property
    def checkpoints(self) -> tuple[Path, Path]:
        """The newest checkpoint and the one before it."""
        return self.checkpoint, self.previous_checkpoint

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint or result, from which another attempt would continue."""
        return any(exists(f"{self.path}/{name}") for name in (RESULT, *CHECKPOINTS))

    @property
    def replaced(self) -> Path:
        """Results from inputs that have changed since; a subfolder each time a run starts over."""
        return self.path / "replaced"

    @property
    def result(self) -> Path:
        """Exists only if training is finished and all evaluations that it names are on disk."""
        return self.path / RESULT

    @property
    def attempts(self) -> Path:
        return self.path / ATTEMPTS

    @property
    def cancel(self) -> Path:
        """A request to stop this run, and not to start it again unless asked to."""
        return self.path / CANCEL

    @property
    def repair(self) -> Path:
        """Options of execution that retries have changed for this run."""
        return self.path / REPAIR

    @property
    def memory(self) -> Path:
        """Memory that a training step needs; written by dry runs only."""
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
        return self.path / eval_names(eval_id)[0]

    def eval_flags(self, eval_id: str) -> Path:
        return self.path / eval_names(eval_id)[1]

    def holds(self, result: Mapping[str, Any], evals: Iterable[str]) -> bool:
        """Whether a result names these evaluations and all of them exist; one that was deleted has
        to be made again."""
        return all(
            name in result["evals"] and exists(f"{self.path}/{eval_names(name)[0]}")
            for name in evals
        )

    def evals_on_disk(self) -> Iterator[str]:
        """Ids of all complete evaluations in the folder, whether or not the result names them."""
        for file in self.evals.glob("*.json"):
            if exists(self.eval_flags(file.stem)):
                yield file.stem

    def forget_results(self) -> None:
        """Delete the result, then every evaluation, finished or not."""
        for file in (self.result, *self.evals.glob("*")):
            self.remove(file)

    def read_config(self) -> dict[str, Any]:
        """The resolved config. Raises DamagedError, OSError."""
        try:
            config = yaml.load(self.config.read_bytes(), Loader=yaml.CSafeLoader)
        except (yaml.YAMLError, ValueError) as error:  # not YAML, or not UTF-8
            said = " ".join(str(error).split())
            raise DamagedError(self.config, f"not complete YAML ({said})") from None
        if problem := misfit(config, AnyObject):
            raise DamagedError(self.config, problem)
        checked: dict[str, Any] = config
        return checked

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config, unless the file has it already."""
        text = yaml.safe_dump(dict(config), sort_keys=False)
        if read(self.config) != text.encode():
            self.write_text(self.config, text)


@dataclass(frozen=True)
class SweepDir:
    """The folder of a sweep: what the grid asked for, and what was submitted."""

    path: Path

    @property
    def grid(self) -> Path:
        return self.path / "grid.yaml"

    @property
    def manifest(self) -> Path:
        """One row per run, in the order of the grid: id, setting, config, evals."""
        return self.path / "manifest.jsonl"

    @property
    def submissions(self) -> Path:
        return self.path / "submissions.jsonl"

    @property
    def failures(self) -> Path:
        """Failed runs, grouped by what their tracebacks have in common."""
        return self.path / "failures"

    @property
    def parts(self) -> Path:
        """Files of workers about the parts of the grid that have ended, see sweep.worker.parts."""
        return self.path / "parts"

    @property
    def logs(self) -> Path:
        return self.path / "logs"


@dataclass(frozen=True)
class Store:
    """The folder that contains everything: `--root`, $EPSWEEP_ROOT or ./outputs."""

    root: Path

    @classmethod
    def at(cls, root: str | Path | None = None) -> Store:
        """The store at `root`, else at $EPSWEEP_ROOT, else at ./outputs, as an absolute path.
        Raises ConfigError if the path cannot be used."""
        return cls(at_home(at_home(root or settings.root()).absolute()))

    @cached_property
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

    def run_ids(self) -> set[str]:
        """Ids of the runs that have a folder."""
        return set(present(partial(os.listdir, self.runs)) or ())

    def sweep(self, name: str) -> SweepDir:
        return SweepDir(self.root / "sweeps" / name)

    def sweeps(self) -> list[SweepDir]:
        """The sweeps that were launched, sorted by name."""
        return [SweepDir(path) for path in sorted((self.root / "sweeps").glob("*/"))]

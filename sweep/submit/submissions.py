"""What all submissions share: the sweep folder, a frozen manifest, a record and a lock.

A submission freezes what it will run in its own manifest. It holds a claim in the sweep folder
while submitting, so that two launches of the same grid cannot interleave.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.config import ConfigError
from core.store import shapes
from core.store.claims import Claim, now
from core.store.fence import newest_attempt
from core.store.files import set_aside, write_text
from core.store.folders import RunDir, Store, SweepDir
from core.store.json_files import salvage, write_jsonl
from slurm import environment
from slurm.profile import Profile
from sweep.grid import Grid, Run
from sweep.worker import custody


def record_grid(grid: Grid, store: Store) -> SweepDir:
    """Write the sweep folder's grid.yaml and manifest.jsonl. Raises ConfigError if the store cannot
    be written to."""
    sweep = store.sweep(grid.name)
    with writing(store):
        sweep.logs.mkdir(parents=True, exist_ok=True)
        store.runs.mkdir(exist_ok=True)
        if not all(os.access(folder, os.W_OK) for folder in (sweep.path, sweep.logs, store.runs)):
            raise ConfigError(f"{store.root}: no permission to write there")
        write_text(sweep.grid, grid.text)
        write_jsonl(sweep.manifest, manifest_rows(grid.runs))
    return sweep


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Context manager: turn an OSError into a ConfigError that names the store."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{store.root}: cannot write there ({error.strerror})") from None


def job_name(sweep: SweepDir) -> str:
    """A name for an array that no other has."""
    return f"epsweep-{sweep.path.name}-{uuid.uuid4().hex[:8]}"


def manifest_row(run: Run) -> dict[str, Any]:
    """A run as manifests hold it, with everything resolved."""
    return next(manifest_rows([run]))


def manifest_rows(runs: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """Yields a row for each run. Rows of runs with the same evaluations share the dict of these:
    ids and dumps for 10,000 runs would take a second and 25 MB."""
    known: dict[int, tuple[object, dict[str, Any]]] = {}
    for run in runs:
        if id(run.evals) not in known:
            made = {item.id: item.to_dict() for item in run.evals}
            known[id(run.evals)] = run.evals, made  # kept alive: no other object gets its id()
        yield {
            "id": run.id,
            "setting": run.setting,
            "config": run.config.to_dict(),
            "evals": known[id(run.evals)][1],
            **({"tuned": dict(run.tuned)} if run.tuned else {}),
        }


@contextmanager
def turn(sweep: SweepDir) -> Iterator[None]:
    """Context manager: hold the exclusive right to plan and submit this sweep. Raises ConfigError
    if another launch holds it."""
    claim = Claim.acquire(RunDir(sweep.path / "submitting"))
    if claim is None:
        raise ConfigError(f"{sweep.path.name}: another launch is submitting it right now")
    try:
        yield
    finally:
        claim.release("done")


def freeze_runs(runs: Sequence[Run], sweep: SweepDir, store: Store) -> Path:
    """Write the manifest of one submission: a row per run, with its number of attempts so far."""
    return write_manifest(
        sweep,
        (manifest_row(run) | {"after": newest_attempt(store.run(run.id).path)} for run in runs),
    )


def write_manifest(sweep: SweepDir, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a manifest under a name never used before: queued jobs will read it even if other
    manifests were deleted, copied or added meanwhile. The number in the name only sorts them."""
    numbers = (path.name.split("-")[1][:4] for path in sweep.path.glob("submission-*.jsonl"))
    number = 1 + max((int(text) for text in numbers if text.isdigit()), default=0)
    path = sweep.path / f"submission-{number:04d}-{uuid.uuid4().hex[:8]}.jsonl"
    custody.write(path, rows)
    return path


def record(sweep: SweepDir, manifest: Path, profile: Profile, **more: Any) -> None:
    """Add a row to submissions.jsonl, in place of an earlier one with the same `name`, if a name is
    given."""
    row = {
        "time": now(),
        "user": environment.user(),
        "profile": profile.name,
        "executor": profile.executor,
        "manifest": manifest.name,
        **more,
    }
    rows = _so_far(sweep)
    kept = [old for old in rows if "name" not in row or old.get("name") != row["name"]]
    write_jsonl(sweep.submissions, [*kept, row])


def forget(sweep: SweepDir, name: str) -> None:
    """Remove the row of an array that Slurm never received."""
    rows = _so_far(sweep)
    write_jsonl(sweep.submissions, [row for row in rows if row.get("name") != name])


def _so_far(sweep: SweepDir) -> list[dict[str, Any]]:
    """The rows of submissions.jsonl. A damaged file is set aside, and its readable rows are
    returned."""
    rows = salvage(sweep.submissions, shapes.Submission)
    if None in rows:
        set_aside(sweep.submissions)
    return [row for row in rows if row]

"""What every submission has in common: the sweep folder, a frozen manifest, a record, turns.

A submission freezes what it will run in a manifest of its own; submitting takes a claim in the
sweep folder, so that two people who launch the same grid at the same moment take turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.claims import Claim, newest_attempt, now, process_alive
from core.config import ConfigError
from core.rundir import RunDir, Store, SweepDir, read_jsonl, write_jsonl, write_text
from slurm import cluster
from slurm.profile import Profile
from sweep.grid import Grid, Run
from sweep.plan import Pending


def record_grid(grid: Grid, store: Store) -> SweepDir:
    """Write the sweep folder's grid.yaml and manifest.jsonl. Raises ConfigError where the store
    cannot be written."""
    sweep = store.sweep(grid.name)
    try:
        sweep.logs.mkdir(parents=True, exist_ok=True)
        store.runs.mkdir(exist_ok=True)
        if not all(os.access(folder, os.W_OK) for folder in (sweep.path, sweep.logs, store.runs)):
            raise ConfigError(f"{store.root}: no permission to write there")
        write_text(sweep.grid, grid.text)
        write_jsonl(sweep.manifest, (manifest_row(run) for run in grid.runs))
    except OSError as error:
        raise ConfigError(f"{store.root}: cannot write there ({error.strerror})") from None
    return sweep


def manifest_row(run: Run) -> dict[str, Any]:
    """A run as manifests hold it: everything resolved, nothing to look up later."""
    return {
        "id": run.id,
        "setting": run.setting,
        "config": run.config.to_dict(),
        "evals": {item.id: item.to_dict() for item in run.evals},
    }


@contextmanager
def turn(sweep: SweepDir) -> Iterator[None]:
    """Exclusive right to plan and submit this sweep. Raises ConfigError if another holds it."""
    claim = Claim.acquire(RunDir(sweep.path / "submitting"))
    if claim is None:
        raise ConfigError(f"{sweep.path.name}: another launch is submitting it right now")
    try:
        yield
    finally:
        claim.release("done")


def freeze_runs(runs: Sequence[Run], sweep: SweepDir, store: Store) -> Path:
    """The manifest of one submission: a row per run, with the attempts made before it."""
    number = 1 + len(list(sweep.path.glob("submission-*.jsonl")))
    path = sweep.path / f"submission-{number:04d}.jsonl"
    rows = [manifest_row(run) | {"after": newest_attempt(store.run(run.id).path)} for run in runs]
    write_jsonl(path, rows)
    return path


def record(sweep: SweepDir, manifest: Path, profile: Profile, **more: Any) -> None:
    """Add a row to submissions.jsonl."""
    row = {
        "time": now(),
        "profile": profile.name,
        "executor": profile.executor,
        "manifest": manifest.name,
        **more,
    }
    write_jsonl(sweep.submissions, [*read_jsonl(sweep.submissions), row])


def pending(sweep: SweepDir, *, executor: str | None = None) -> dict[str, Pending]:
    """The runs that a live submission will still start (or has started), by id.

    executor: only submissions to that one.

    Asks Slurm once for all arrays. Where it does not answer, jobs count as still on their way: a
    run that waits too long is better than one that runs twice.
    """
    found: dict[str, Pending] = {}
    tasks: dict[str, tuple[str, int, int]] = {}
    for row in read_jsonl(sweep.submissions):
        if executor not in (None, row["executor"]):
            continue
        if row["executor"] == "slurm":
            tasks |= {job: (row["manifest"], *rows) for job, rows in row["jobs"].items()}
        else:
            alive = [item for item in row["processes"] if process_alive(item)]
            if alive:
                rows = read_jsonl(sweep.path / row["manifest"])
                found |= promises(rows, str(alive[0]["pid"]))
    states = cluster.jobs(tasks)
    manifests: dict[str, list[dict[str, Any]]] = {}
    for job, (name, first, count) in tasks.items():
        state = states[job]
        gone = state.over or (state.current and state.state == "UNKNOWN")
        if not gone:
            rows = manifests.setdefault(name, read_jsonl(sweep.path / name))
            found |= promises(rows[first : first + count], job)
    return found


def promises(rows: Sequence[Mapping[str, Any]], job: str) -> dict[str, Pending]:
    """What a job promises for the rows of its manifest."""
    return {row["id"]: Pending(job, row["after"]) for row in rows}

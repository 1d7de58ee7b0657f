"""One file per array: each task finds its own in it, whenever it starts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from core.store.folders import Store, read_jsonl
from slurm import profile as profiles
from sweep.submit import array, bundle

NAME = "epsweep-x-0a"


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is task 2 of array 5."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_FOLDER", "")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)


def write(folder: Path) -> None:
    tasks = [DelayedSubmission(pow, number, 3) for number in range(4)]
    bundle.file(folder, NAME).write_bytes(pickle.dumps(tasks))


def test_a_task_takes_its_own(tmp_path: Path, task: None) -> None:
    write(tmp_path)
    bundle.take(tmp_path, NAME)
    assert {path.name for path in tmp_path.iterdir()} == {f"{NAME}_tasks.pkl", "5_2_submitted.pkl"}
    assert DelayedSubmission.load(tmp_path / "5_2_submitted.pkl").result() == 2**3


def test_a_task_that_was_queued_again_keeps_what_it_left(
    tmp_path: Path, task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time-outs are counted there."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    write(tmp_path)
    bundle.take(tmp_path, NAME)
    (tmp_path / "5_2_submitted.pkl").write_text("of the former start")
    bundle.take(tmp_path, NAME)
    assert (tmp_path / "5_2_submitted.pkl").read_text() == "of the former start"


def test_a_task_does_not_do_what_a_forgotten_job_of_its_id_did(tmp_path: Path, task: None) -> None:
    write(tmp_path)
    (tmp_path / "5_2_submitted.pkl").write_text("of another job")
    bundle.take(tmp_path, NAME)
    assert DelayedSubmission.load(tmp_path / "5_2_submitted.pkl").result() == 2**3


@pytest.mark.parametrize("count", [1, 3])
def test_tasks_find_theirs_although_the_launcher_was_stopped_as_sbatch_took_them(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: None, count: int
) -> None:
    """Ctrl-C reaches both, and sbatch may have done its work by then."""
    fake = "#!/bin/sh\nkill -INT $PPID\nsleep 0.2\necho Submitted batch job 5\n"
    for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
        (tmp_path / name).write_text(fake)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sweep = store.sweep("x")
    sweep.logs.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        tasks = [dict] * count
        array.hand_over(tasks, sweep, tmp_path, tmp_path / "m", profiles.load("testbed"))
    (row,) = read_jsonl(sweep.submissions)
    if count == 1:
        monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    bundle.take(sweep.logs, row["name"])
    assert DelayedSubmission.load(next(sweep.logs.glob("*_submitted.pkl"))).result() == {}

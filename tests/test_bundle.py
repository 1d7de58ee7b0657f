"""One file per array: each task finds its own in it, whenever it starts."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from sweep import bundle


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is task 2 of array 5."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_FOLDER", "")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")


def write(folder: Path) -> None:
    tasks = [DelayedSubmission(pow, number, 3) for number in range(4)]
    (folder / "5_tasks.pkl").write_bytes(pickle.dumps(tasks))


def test_a_task_takes_its_own(tmp_path: Path, task: None) -> None:
    write(tmp_path)
    bundle.take(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"5_tasks.pkl", "5_2_submitted.pkl"}
    assert DelayedSubmission.load(tmp_path / "5_2_submitted.pkl").result() == 2**3


def test_a_task_that_was_queued_again_keeps_what_it_left(tmp_path: Path, task: None) -> None:
    """Its time-outs are counted there."""
    write(tmp_path)
    (tmp_path / "5_2_submitted.pkl").write_text("of the former start")
    bundle.take(tmp_path)
    assert (tmp_path / "5_2_submitted.pkl").read_text() == "of the former start"


def test_a_task_without_its_array_says_so(
    tmp_path: Path, task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "PATIENCE_S", 0.0)
    with pytest.raises(RuntimeError, match=r"neither 5_2_submitted.pkl nor 5_tasks.pkl appeared"):
        bundle.take(tmp_path)

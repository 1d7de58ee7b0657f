"""One file per array: each task finds its own in it, whenever it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from submitit.core import utils

from core.errors import AlienError
from core.store.folders import Store
from core.store.json_files import read_jsonl
from slurm.profile import read_profile
from sweep.submit import array, bundle
from sweep.tune.trial_job import TuneJob
from sweep.worker import custody, task_file
from sweep.worker.run_job import RunJob

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


def work(number: int) -> RunJob:
    return RunJob("/root", "x", "/manifest", first=number, count=1, gpus=0.5)


def write(folder: Path, jobs: Sequence[RunJob] | Sequence[TuneJob]) -> None:
    """The tasks of the array NAME, as a launcher writes them."""
    made = bundle.Executor(folder, max_num_timeout=2)
    made.update_parameters(job_name=NAME, time=60)
    made.write(jobs)


def taken(folder: Path) -> task_file.DelayedSubmission:
    return task_file.DelayedSubmission.load(folder / "5_2_submitted.pkl")


@pytest.fixture(autouse=True)
def srun(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit wants one, and does not call it here."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    "jobs",
    [
        [work(n) for n in range(4)],
        [TuneJob("/root", "/x", "/m", 0, 3, turn=n, threads=4) for n in range(4)],
        [work(7)] * 3,
    ],
)
def test_a_task_takes_its_own(tmp_path: Path, task: None, jobs: list[RunJob]) -> None:
    write(tmp_path, jobs)
    bundle.take(tmp_path, NAME)
    assert {p.name for p in tmp_path.iterdir()} == {f"{NAME}_tasks.jsonl", "5_2_submitted.pkl"}
    mine = taken(tmp_path)
    assert mine.function == jobs[2]
    assert (mine._timeout_min, mine._timeout_countdown) == (60, 2)


def test_a_task_that_was_queued_again_keeps_what_it_left(
    tmp_path: Path, task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time-outs are counted there."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    write(tmp_path, [work(n) for n in range(3)])
    bundle.take(tmp_path, NAME)
    (tmp_path / "5_2_submitted.pkl").write_text("of the former start")
    bundle.take(tmp_path, NAME)
    assert (tmp_path / "5_2_submitted.pkl").read_text() == "of the former start"


def test_a_task_does_not_do_what_a_forgotten_job_of_its_id_did(tmp_path: Path, task: None) -> None:
    write(tmp_path, [work(n) for n in range(3)])
    (tmp_path / "5_2_submitted.pkl").write_text("of another job")
    bundle.take(tmp_path, NAME)
    assert taken(tmp_path).function == work(2)


def test_a_checkpointed_task_is_taken_again_in_a_folder_of_a_group(
    tmp_path: Path, task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit writes it anew when the job is queued again: the group must not change it."""
    monkeypatch.setenv(custody.OWNER, str(os.geteuid()))
    before = os.umask(0o002)
    try:
        write(tmp_path, [work(n) for n in range(3)])
        bundle.take(tmp_path, NAME)
        again = taken(tmp_path)._checkpoint_function()
        assert again
        again.dump(tmp_path / "5_2_submitted.pkl")
        (tmp_path / "log").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o664, "what runs write is the group's"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    bundle.take(tmp_path, NAME)
    assert taken(tmp_path).function == work(2)
    for mode in (0o664, 0o646):
        (tmp_path / "5_2_submitted.pkl").chmod(mode)
        with pytest.raises(AlienError, match=r"5_2_submitted.pkl: refused, other users"):
            taken(tmp_path)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.path,)


def test_a_worker_runs_no_task_that_others_could_have_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a group member puts in place of a task after the launcher wrote it is not unpickled."""
    made = tmp_path / "made"
    for name, value in {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "7",
        "SUBMITIT_LOCAL_GLOBALID": "0",
        "SUBMITIT_FOLDER": "",
        custody.OWNER: str(os.geteuid()),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(utils, "DelayedSubmission", utils.DelayedSubmission)
    monkeypatch.setattr("sys.argv", ["bundle", str(tmp_path)])
    mine = tmp_path / "7_submitted.pkl"
    utils.cloudpickle_dump(Attack(made), mine)
    mine.chmod(0o666)
    with pytest.raises(SystemExit, match=r"7_submitted\.pkl: refused, other users may"):
        bundle.main()
    assert not made.exists()
    mine.chmod(0o600)
    with pytest.raises(AttributeError):  # the directory is no task
        bundle.main()
    assert made.exists(), "this file would have done it"


# After Ctrl-C, subprocess.run gives a child 0.25 s, kills it and leaves its end for later.
@pytest.mark.filterwarnings("ignore:.*Popen.__del__:pytest.PytestUnraisableExceptionWarning")
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
        array.hand_over([work(0)] * count, sweep, tmp_path, tmp_path / "m", read_profile("testbed"))
    (row,) = read_jsonl(sweep.submissions)
    if count == 1:
        monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    bundle.take(sweep.logs, row["name"])
    mine = task_file.DelayedSubmission.load(next(sweep.logs.glob("*_submitted.pkl")))
    assert mine.function == work(0)

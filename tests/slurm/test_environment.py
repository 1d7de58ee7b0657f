"""Who am I: the same answer squeue would give, and ranks only where they are ours."""

import socket
from pathlib import Path

import pytest

from slurm.environment import Job, current, node_tmpdir

TASK = {
    "SLURM_JOB_ID": "12",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_RESTART_COUNT": "2",
    "SLURMD_NODENAME": "n4",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
}


def test_a_task_of_an_array_under_submitit() -> None:
    assert current(TASK | {"SUBMITIT_EXECUTOR": "slurm"}) == Job("7_3", 2, "n4", 5, 1, 8)


def test_a_process_started_by_hand_in_an_allocation_is_alone() -> None:
    job = current(TASK)
    assert (job.id, job.rank, job.local_rank, job.world_size) == ("7_3", 0, 0, 1)


def test_submitits_local_executor_inside_an_allocation_numbers_its_own_ranks() -> None:
    local = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_GLOBALID": "1",
        "SUBMITIT_LOCAL_LOCALID": "1",
        "SUBMITIT_LOCAL_NTASKS": "2",
    }
    job = current(TASK | local)
    assert (job.rank, job.local_rank, job.world_size) == (1, 1, 2)


def test_without_slurm_there_is_no_job() -> None:
    assert current({}) == Job(None, 0, socket.gethostname(), 0, 0, 1)
    assert current({"SLURM_JOB_ID": "12"}).id == "12"


@pytest.mark.parametrize("kind", ["writable", "missing", "unset"])
def test_the_node_disk_is_there_or_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "writable" else tmp_path / "gone"
    environ = {} if kind == "unset" else {"SLURM_TMPDIR": str(path)}
    assert node_tmpdir(environ) == (tmp_path if kind == "writable" else None)

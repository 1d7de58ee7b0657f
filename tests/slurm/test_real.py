"""Our reading of Slurm against a real Slurm."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_bed import inside, needs_slurm, submit
from waiting import until

from core.errors import ClusterError
from slurm import cluster, limits
from slurm.environment import Job
from slurm.testbed import Bed, BedError

pytestmark = needs_slurm

ROOT = Path(__file__).parents[2]
WHO_AM_I = """\
import dataclasses, json, sys, time
from pathlib import Path
from slurm.environment import current
job = current()
path = Path(sys.argv[1], f"{job.id}.{job.restarts}.{job.rank}")
path.write_text(json.dumps(dataclasses.asdict(job)))
time.sleep(float(sys.argv[2]))
"""


BED = {"max_array_size": 101}


@pytest.fixture(autouse=True)
def clean(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with inside(bed, monkeypatch):
        yield


def states(*ids: str) -> list[str]:
    return [job.state for job in cluster.jobs(ids).values()]


def tell(folder: Path, seconds: float = 0) -> str:
    """A command that writes its slurm.environment.Job into `folder`, then sleeps."""
    words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", WHO_AM_I, str(folder), str(seconds)]
    return shlex.join(words)


def told(folder: Path, name: str) -> Job:
    until(lambda: (folder / name).exists() and (folder / name).read_text() != "")
    return Job(**json.loads((folder / name).read_text()))


def test_the_largest_array_is_accepted_and_one_more_is_not(bed: Bed) -> None:
    found = limits.read()
    assert (found.known, found.max_array_size) == (True, 101)
    [whole, rest] = limits.chunks(102, found)
    submit(bed, "true", "--hold", f"--array=0-{len(whole) - 1}")
    assert len(rest) == 1
    with pytest.raises(BedError, match="Invalid job array specification"):
        submit(bed, "true", "--hold", f"--array=0-{len(whole)}")
    with pytest.raises(BedError, match="Invalid job array specification"):
        submit(bed, "true", "--hold", "--array=101-102")  # it is the index that is bounded


def test_queued_jobs_are_counted_task_by_task(bed: Bed) -> None:
    submit(bed, "true", "--hold", "--array=0-9")
    assert limits.read().cap.queued == 10


def test_how_jobs_ended_is_told_without_accounting(bed: Bed) -> None:
    array = submit(
        bed, "case $SLURM_ARRAY_TASK_ID in 1) exit 3;; 2) kill -9 $$;; esac", "--array=0-2"
    )
    ids = [f"{array}_{i}" for i in range(3)]
    until(lambda: states(*ids) == ["COMPLETED", "FAILED", "FAILED"])
    ended = cluster.jobs(ids)
    assert [(ended[i].exit_code, ended[i].signal) for i in ids] == [(0, 0), (3, 0), (0, 9)]
    assert all(job.over for job in ended.values())


def test_tasks_that_ran_wait_or_never_started_are_told_apart(bed: Bed) -> None:
    array = submit(bed, "sleep 60", "--array=0-9%2")
    ids = [f"{array}_{i}" for i in range(10)]
    until(lambda: states(*ids[:2]) == ["RUNNING", "RUNNING"])
    assert set(states(*ids[2:])) == {"PENDING"}
    cluster.cancel(ids[5:])  # Slurm forgets tasks that are cancelled one by one before they start
    assert states(*ids[4:]) == ["PENDING", *["UNKNOWN"] * 5]
    cluster.cancel(ids)
    until(lambda: set(states(*ids[:5])) == {"CANCELLED"})
    cluster.cancel(ids)  # over already: no fault


def test_long_irregular_arrays_are_not_cut_off(bed: Bed) -> None:
    indices = [*range(0, 60, 2), *range(61, 100, 3)]
    array = submit(bed, "true", "--hold", f"--array={','.join(map(str, indices))}")
    ids = [f"{array}_{i}" for i in indices]
    printed = bed.run("squeue", "-h", "-o", "%i", "-j", array).strip()
    assert len(cluster.expand(printed)) < len(ids)  # what squeue prints by itself is
    assert set(states(*ids)) == {"PENDING"}
    assert states(f"{array}_1") == ["UNKNOWN"]


def test_nobody_knows_a_job_that_never_was() -> None:
    job = cluster.jobs(["99999"])["99999"]
    assert (job.state, job.current, job.over) == ("UNKNOWN", True, False)


def test_a_script_is_checked_without_being_submitted(bed: Bed, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\n#SBATCH --gpus-per-node=4\ntrue\n")
    assert "to start at" in cluster.test_only(script)
    script.write_text("#!/bin/bash\n#SBATCH --gpus-per-node=5\ntrue\n")
    with pytest.raises(ClusterError, match="Requested node configuration is not available"):
        cluster.test_only(script)
    assert bed.run("squeue", "-h") == ""


def test_partitions_are_those_of_the_bed() -> None:
    found = cluster.partitions()
    assert [*found] == ["main", "preemptible"]
    assert dataclasses.astuple(found["main"]) == ("main", True, True, 2, None)


def test_a_task_knows_its_name_node_and_restarts(bed: Bed, tmp_path: Path) -> None:
    array = submit(bed, tell(tmp_path, 60), "--array=4-4")
    first = told(tmp_path, f"{array}_4.0.0")
    assert first.node in bed.knobs.node_names
    assert states(first.id or "") == ["RUNNING"]
    bed.run("scontrol", "requeue", first.id or "")
    again = told(tmp_path, f"{array}_4.1.0")
    assert (again.id, again.restarts) == (first.id, 1)


def test_ranks_are_those_of_srun_under_submitit(bed: Bed, tmp_path: Path) -> None:
    job = submit(
        bed, f"SUBMITIT_EXECUTOR=slurm srun {tell(tmp_path)}", "-N2", "--ntasks-per-node=2"
    )
    ranks = [told(tmp_path, f"{job}.0.{rank}") for rank in range(4)]
    assert [r.world_size for r in ranks] == [4] * 4
    assert sorted(r.local_rank for r in ranks) == [0, 0, 1, 1]
    assert {r.node for r in ranks} == {"n1", "n2"}


def test_gpus_are_handed_out_without_overlap(bed: Bed, tmp_path: Path) -> None:
    show = (
        f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES > {tmp_path}/$SLURM_ARRAY_TASK_ID; sleep 60"
    )
    submit(bed, show, "--array=0-3", "--gpus-per-node=2")
    files = [tmp_path / str(i) for i in range(4)]
    until(lambda: all(file.exists() and file.read_text() for file in files))
    seen = [tuple(file.read_text().split()) for file in files]
    assert sorted(seen) == [("n1", "0,1"), ("n1", "2,3"), ("n2", "0,1"), ("n2", "2,3")]

"""Limits and sacct against a real Slurm with its accounting database."""

import getpass
from collections.abc import Iterator
from signal import SIGTERM

import pytest
from slurm_bed import inside, needs_database, submit
from waiting import until

from slurm import cluster, limits
from slurm.testbed import Bed, BedError

pytestmark = needs_database


BED = {"nodes": 1, "acct": "dbd", "max_submit": 12, "max_array_size": 5, "min_job_age": 2}


@pytest.fixture(autouse=True)
def clean(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with inside(bed, monkeypatch):
        yield


def alter(bed: Bed, *change: str) -> None:
    bed.run("sacctmgr", "-i", "modify", *change)


def fill(bed: Bed, n: int) -> int:
    """Submits what fits of `n` held jobs; how many that were."""
    cut = limits.chunks(n, limits.read())
    for chunk in cut:
        submit(bed, "true", "--hold", f"--array=0-{len(chunk) - 1}")
    return sum(map(len, cut))


def test_what_fits_is_accepted_and_one_more_is_not(bed: Bed) -> None:
    submit(bed, "true", "--hold")
    assert fill(bed, 40) == 11
    found = limits.read()
    assert (found.room, found.cap.most, found.cap.queued) == (0, 12, 12)
    assert found.cap.name == f"MaxSubmitJobs of user {getpass.getuser()} in account root"
    assert fill(bed, 40) == 0
    with pytest.raises(BedError, match="AssocMaxSubmitJobLimit"):
        submit(bed, "true", "--hold")


@pytest.mark.parametrize(
    ("what", "limit", "name", "error"),
    [
        (("account", "root"), "GrpSubmitJobs", "of account root", "AssocGrpSubmitJobsLimit"),
        (("qos", "normal"), "MaxSubmitJobsPerUser", "of QOS normal", "QOSMaxSubmitJobPerUserLimit"),
    ],
)
def test_limits_of_account_and_qos_count_too(
    bed: Bed, what: tuple[str, str], limit: str, name: str, error: str
) -> None:
    alter(bed, *what, "set", f"{limit}=7")
    try:
        until(lambda: limits.read().cap.most == 7)
        assert limits.read().cap.name.endswith(name)
        assert fill(bed, 40) == 7
        with pytest.raises(BedError, match=error):
            submit(bed, "true", "--hold")
    finally:
        alter(bed, *what, "set", f"{limit}=-1")


def test_what_squeue_forgot_the_accounting_knows(bed: Bed) -> None:
    job = submit(bed, "exit 3")
    until(lambda: cluster.jobs([job])[job].state == "FAILED")
    until(lambda: not bed.run("squeue", "-h", "-t", "all"))
    known = cluster.jobs([job])[job]
    assert (known.state, known.exit_code, known.nodes, known.over) == ("FAILED", 3, "n1", True)


@pytest.mark.slow
def test_outages_leave_jobs_unknown_and_then_known_again(bed: Bed) -> None:
    job = submit(bed, "true", "--hold")
    bed.stop_daemon("slurmdbd")
    assert cluster.jobs([job, "999"])["999"].state == "UNKNOWN"
    assert cluster.jobs([job])[job].state == "PENDING"
    bed.stop_daemon("slurmctld", SIGTERM)  # SIGKILL would lose the job of a second ago
    state = cluster.jobs([job])[job]
    assert (state.state, state.current) == ("UNKNOWN", False)
    assert not limits.read().known
    bed.start_daemon("slurmdbd")
    bed.start_daemon("slurmctld")
    until(lambda: cluster.jobs([job])[job].state == "PENDING")

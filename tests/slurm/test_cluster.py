"""What the cluster says: parsed right, asked rarely, and never taken for more than it is."""

from pathlib import Path

import pytest
from fake_slurm import CONFIG, Fake
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ClusterError
from slurm import cluster, limits
from slurm.cluster import JobState
from slurm.command import ask
from slurm.limits import Cap, Limits


@pytest.mark.parametrize(
    ("printed", "ids"),
    [
        ("7", ["7"]),
        ("7_3", ["7_3"]),
        ("7_[3]", ["7_3"]),
        ("7_[0-2,5%4]", ["7_0", "7_1", "7_2", "7_5"]),
        ("7_[0-8:4]", ["7_0", "7_4", "7_8"]),
        ("7_[1-2,9-10]", ["7_1", "7_2", "7_9", "7_10"]),
        ("7_[1,3,22,2", ["7_1", "7_3", "7_22"]),  # cut off: 2 may have been 25
    ],
)
def test_array_expressions_expand(printed: str, ids: list[str]) -> None:
    assert cluster.expand(printed) == ids


@given(st.sets(st.tuples(st.integers(1, 3), st.integers(0, 40)), min_size=1))
def test_compress_is_the_reverse_of_expand(tasks: set[tuple[int, int]]) -> None:
    ids = {f"{array}_{index}" for array, index in tasks}
    short = cluster.compress(ids)
    assert sorted(job for one in short for job in cluster.expand(one)) == sorted(ids)
    assert len(short) == len({array for array, _ in tasks})


def test_a_whole_array_wins_over_its_tasks() -> None:
    assert cluster.compress(["7_1", "8", "7", "7_2"]) == ["7", "8"]


@given(st.integers(0, 5000), st.integers(0, 1200), st.integers(0, 4000), st.integers(0, 4000))
def test_chunks_hold_the_first_jobs_that_fit_each_once(
    n: int, size: int, most: int, queued: int
) -> None:
    cut = limits.chunks(n, Limits(size, Cap("MaxSubmitJobs", most, queued)))
    fitting = min(n, max(0, most - queued))
    assert [job for chunk in cut for job in chunk] == list(range(fitting))
    assert all(1 <= len(chunk) <= max(1, size) for chunk in cut)


def test_one_call_each_for_ten_thousand_tasks(fake: Fake) -> None:
    fake.says(
        "squeue", "7_[5-9999%8]|PENDING|Resources||0|N/A|sweep|\n7_1|RUNNING|None|n1|0|N/A|sweep|\n"
    )
    fake.says(
        "sacct",
        "7_0|COMPLETED|n1|0:0|sweep\n7_2|FAILED|n2|3:0|sweep\n7_2.batch|FAILED|n2|3:0|sweep\n",
    )
    states = cluster.jobs([f"7_{i}" for i in range(10_000)])
    assert states["7_9999"] == JobState("PENDING", "Resources", name="sweep", current=True)
    assert states["7_1"].state == "RUNNING"
    assert states["7_0"] == JobState("COMPLETED", "", "n1", 0, 0, name="sweep", current=True)
    assert states["7_2"] == JobState("FAILED", "", "n2", 3, 0, name="sweep", current=True)
    assert states["7_3"] == JobState(current=True)
    assert [call.split()[0] for call in fake.calls()] == ["squeue", "sacct"]


def test_sacct_is_left_alone_while_squeue_knows_all(fake: Fake) -> None:
    fake.says("squeue", "7_1|RUNNING|None|n1|0|N/A|sweep|\n8|COMPLETED|None|n1|0|N/A|sweep|\n")
    assert {job.state for job in cluster.jobs(["7_1", "8"]).values()} == {"RUNNING", "COMPLETED"}
    assert len(fake.calls()) == 1


def test_nothing_is_asked_about_nothing(fake: Fake) -> None:
    assert cluster.jobs([]) == {}
    cluster.cancel([])
    assert fake.calls() == []


@pytest.mark.parametrize("code", [0, 1])
def test_no_answer_is_unknown_and_never_over(fake: Fake, code: int) -> None:
    fake.says("squeue", error="squeue: error: Unable to contact slurm controller", code=1)
    fake.says("sacct", error="Slurm accounting storage is disabled", code=code)
    state = cluster.jobs(["7_1"])["7_1"]
    assert state == JobState("UNKNOWN", current=False)
    assert not state.over


def test_no_slurm_at_all_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.jobs(["7"]) == {"7": JobState()}
    assert not cluster.available()
    assert limits.read() == Limits()
    with pytest.raises(ClusterError, match="scancel: No such file or directory"):
        cluster.cancel(["7"])


def test_a_command_that_hangs_is_given_up(fake: Fake) -> None:
    (fake.folder / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    answer = ask("squeue", timeout_s=0.2)
    assert (answer.ok, answer.text) == (False, "")
    assert answer.error == "squeue did not answer in 0.2 s"


def test_a_lone_forgotten_id_is_an_answer(fake: Fake) -> None:
    fake.says("squeue", error="slurm_load_jobs error: Invalid job id specified", code=1)
    fake.says("sacct", "7|CANCELLED by 1000|None assigned|0:0|sweep\n")
    state = cluster.jobs(["7"])["7"]
    assert state == JobState("CANCELLED", "", "", 0, 0, name="sweep", current=True)
    assert state.over


@pytest.mark.parametrize("status", ["3:0", "768"])  # from 23.02 on, and before
def test_exit_codes_of_old_and_new_releases(fake: Fake, status: str) -> None:
    fake.says("squeue", f"7|FAILED|NonZeroExitCode|n1|{status}|N/A|a|b|\n")
    job = cluster.jobs(["7"])["7"]
    assert (job.exit_code, job.signal, job.name) == (3, 0, "a|b")


def test_node_failure_in_the_accounting_is_not_the_end_while_squeue_has_the_job(fake: Fake) -> None:
    fake.says("squeue", "7_1|PENDING|BeginTime||0|N/A|sweep|\n")
    fake.says("sacct", "7_1|NODE_FAIL|n1|0:0|sweep\n")
    assert cluster.jobs(["7_1"])["7_1"].state == "PENDING"


def test_without_squeue_an_end_in_the_accounting_is_not_final(fake: Fake) -> None:
    fake.says("squeue", error="connect failure", code=1)
    fake.says("sacct", "7_1|NODE_FAIL|n1|0:0|sweep\n7_2|RUNNING|n1|0:0|sweep\n")
    states = cluster.jobs(["7_1", "7_2"])
    assert (states["7_1"].state, states["7_1"].over) == ("NODE_FAIL", False)
    assert states["7_2"].state == "RUNNING"


def test_an_accounting_that_lags_does_not_revive_a_job(fake: Fake) -> None:
    fake.says("squeue", "7_1|FAILED|NonZeroExitCode|n1|768|N/A|sweep|\n")
    fake.says("sacct", "7_1|RUNNING|n1|0:0|sweep\n7_2|PENDING|None assigned|0:0|sweep\n")
    states = cluster.jobs(["7_1", "7_2"])
    assert states["7_1"] == JobState(
        "FAILED", "NonZeroExitCode", "n1", 3, 0, name="sweep", current=True
    )
    assert states["7_2"] == JobState(current=True)


def test_memory_kills_show_in_a_step_while_the_job_just_failed(fake: Fake) -> None:
    fake.says(
        "squeue",
        "7_1|FAILED|NonZeroExitCode|n1|9|N/A|sweep|\n7_2|FAILED|NonZeroExitCode|n1|9|N/A|sweep|\n",
    )
    fake.says(
        "sacct",
        "7_1|FAILED|n1|0:9|sweep\n7_1.batch|FAILED|n1|0:9|sweep\n7_1.0|OUT_OF_MEMORY|n1|0:125|sweep\n"
        "7_2|FAILED|n1|0:9|sweep\n7_2.0|FAILED|n1|0:9|sweep\n",
    )
    states = cluster.jobs(["7_1", "7_2"])
    assert (states["7_1"].oom, states["7_1"].signal) == (True, 9)
    assert not states["7_2"].oom


def test_the_cancelled_rest_of_an_array_is_found_under_the_array(fake: Fake) -> None:
    fake.says(
        "squeue",
        "7|CANCELLED|JobArrayTaskLimit||0|N/A|sweep|\n7_0|COMPLETED|None|n1|0|N/A|sweep|\n",
    )
    states = cluster.jobs(["7_0", "7_1"])
    assert (states["7_0"].state, states["7_1"].state) == ("COMPLETED", "CANCELLED")


def test_a_persons_settings_of_squeue_do_not_reach_it(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SACCT_FORMAT", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "x")
    (fake.folder / "squeue").write_text("#!/bin/sh\nexec env\n")
    seen = ask("squeue").text
    assert "SQUEUE_" not in seen
    assert "SACCT_" not in seen
    assert "SLURM_BITSTR_LEN=0\n" in seen
    assert "SLURM_TIME_FORMAT=standard\n" in seen, "'Ystday 10:00' is no time when a job started"


def test_cancel_names_each_array_once(fake: Fake) -> None:
    fake.says("scancel")
    cluster.cancel(["7_0", "7_1", "7_5", "8"])
    assert fake.calls() == ["scancel 7_[0-1,5] 8"]


def test_a_refusal_is_one_line_in_slurms_words(fake: Fake) -> None:
    fake.says("sbatch", error="sbatch: error: invalid partition\nallocation failure: no\n", code=1)
    with pytest.raises(ClusterError, match=r"^sbatch: invalid partition; allocation failure: no$"):
        cluster.test_only("job.sh")
    assert fake.calls() == ["sbatch --test-only job.sh"]


def test_a_sites_greetings_are_no_answers(fake: Fake) -> None:
    """Wrappers and profile scripts print them, before whatever is asked for."""
    hello = "*** 12 nodes | down | on | 3 | May ***\n\n17 is a number\n"
    fake.says("squeue", f"{hello}7_[0-1%1]|PENDING|Priority||0|N/A|sweep|\n")
    fake.says("sacct", hello)
    states = cluster.jobs(["7_0", "7_1", "8"])
    assert [state.state for state in states.values()] == ["PENDING", "PENDING", "UNKNOWN"]
    partition = "PartitionName=gpu Default=YES MaxTime=UNLIMITED State=UP TotalNodes=8\n"
    fake.says("scontrol", f"{hello}{partition}")
    assert list(cluster.partitions()) == ["gpu"]
    fake.says("scontrol", f"{hello}{CONFIG.format(enforce='limits', more='')}")
    fake.says("squeue", "Hello, you have\n2 messages\n7_0\n7_1\n")
    fake.says("sacctmgr", "Hello\n3\n")
    assert limits.read().cap == ("MaxSubmitJobsPerUser of QOS normal", 3, 2)
    error = "Hello\nsbatch: you have mail\nsbatch: error: no such account\nsbatch: error: bye\n"
    fake.says("sbatch", error=error, code=1)
    with pytest.raises(ClusterError, match=r"^sbatch refused: no such account; bye$"):
        cluster.submit("job.sh", "sweep")


def test_partitions_are_read(fake: Fake) -> None:
    fake.says(
        "scontrol",
        "PartitionName=gpu Default=YES MaxTime=1-12:30:00 State=UP TotalNodes=8\n"
        "PartitionName=old Default=NO MaxTime=UNLIMITED State=DOWN TotalNodes=1\n",
    )
    found = cluster.partitions()
    assert found["gpu"] == cluster.Partition("gpu", True, True, 8, 36 * 60 + 30)
    assert (found["old"].up, found["old"].max_time_min) == (False, None)

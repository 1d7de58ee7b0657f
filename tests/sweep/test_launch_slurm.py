"""Launches on Slurm as its commands see them: environment, clusters, ids, jobs of others."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import ConfigError
from core.errors import ClusterError
from core.store.folders import Store
from core.store.json_files import read_jsonl
from slurm import cluster
from slurm.cluster import JobState
from slurm.profile import read_profile
from sweep import launcher
from sweep.grid import Grid
from sweep.state.plan import State
from sweep.submit import array, batch_script, frozen_code, submissions
from sweep.submit.order import Runs
from sweep.tune import session
from sweep.worker.run_job import RunJob

WORK = RunJob(root="/r", sweep="again", manifest="/m", first=0, count=1)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of a Slurm, in a folder; sbatch leaves its environment there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
        text = f"#!/bin/sh\n[ {name} = sbatch ] && env > {folder}/env && echo 5\nexit 0"
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_jobs_inherit_nothing_that_changes_them(
    again: Grid, store: Store, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the job that a launch is called in: srun would end at once where it finds two kinds of
    memory asked for. Of sbatch's options: it would wait for the jobs, or cut their time."""
    job = {"SLURM_JOB_ID": "3", "SLURM_MEM_PER_CPU": "100", "SRUN_DEBUG": "3", "SLURM_HINT": "x"}
    options = {"SBATCH_WAIT": "1", "SBATCH_TIMELIMIT": "1", "SBATCH_EXPORT": "NONE"}
    place = {"SBATCH_ACCOUNT": "mine", "SBATCH_PARTITION": "away", "SBATCH_RESERVATION": "r 1"}
    meant = {"SLURM_CONF": "/etc/slurm.conf", "LC_ALL": "de_DE.UTF-8"}
    for name, value in (job | options | place | meant).items():
        monkeypatch.setenv(name, value)
    sweep = submissions.record_grid(again, store)
    array.BACKEND.start(Runs(sweep, store, read_profile("testbed"), again.runs))
    seen = (slurm / "env").read_text().splitlines()
    assert {f"{k}={v}" in seen for k, v in meant.items()} == {True}
    assert {f"{k}={v}" in seen for k, v in (job | options | place).items()} == {False}
    assert os.environ["SLURM_MEM_PER_CPU"] == "100"
    script = (sweep.logs / "5_submission.sh").read_text()
    assert "#SBATCH --account=mine\n#" in script and "#SBATCH --reservation='r 1'\n" in script
    assert "#SBATCH --partition=main\n" in script, "a profile's own word wins"
    assert "--wckey" not in script
    monkeypatch.setenv("SBATCH_WCKEY", "ours")
    assert "#SBATCH --wckey=ours\n" in batch_script.text(1, sweep, read_profile("testbed"))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SLURM_CLUSTERS", "a,b", "SLURM_CLUSTERS=a,b: expected the name of one cluster"),
        ("SBATCH_CLUSTERS", "b", "SBATCH_CLUSTERS=b: squeue ignores it"),
    ],
)
def test_jobs_go_to_the_cluster_that_is_asked_about_them(
    store: Store, slurm: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        batch_script.text(1, store.sweep("s"), read_profile("testbed"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "base: {weights: random, image_size: 12, epochs: 1, backbone: mini_convnext, "
            "dataset: fake}\n"
            "evals: [{attack: autoattack, norm: l2, epsilons: [0, 0.5]}]\n",
            "attack autoattack",
        ),
        ("base: {backbone: swin, weights: none.pt, dataset: /no/folder}\n", "no such file"),
        (
            "base: {weights: random, image_size: 32, backbone: mini_convnext, dataset: fake}\n"
            "tune: {trials: 6}\n",
            "of 1 search unfinished",
        ),
    ],
)
@pytest.mark.parametrize("profile", ["local", "testbed"])
def test_a_dry_launch_refuses_what_a_launch_refuses(
    call: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    slurm: Path,
    text: str,
    why: str,
    profile: str,
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(f"name: g\n{text}")
    arguments = ("launch", str(path), "--profile", profile)
    refused, shown, told = call(*arguments, "--dry-run")
    assert (refused, told) == (2, call(*arguments)[2]) and why in told
    assert "1 run: 1 new" in shown and "submitit" not in shown


@pytest.mark.parametrize("odd", ["100%", "back\\slash", "p%j"])
def test_a_folder_that_slurm_would_take_for_a_pattern_is_refused(
    again: Grid, tmp_path: Path, slurm: Path, call: Callable[..., tuple[int, str, str]], odd: str
) -> None:
    where = ("--profile", "testbed", "--root", str(tmp_path / odd))
    for more in ((), ("--dry-run",)):
        code, _, err = call("launch", str(again.path), *where, *more)
        assert code == 2 and "names of log files as patterns" in err and err.count("\n") == 1
    assert not (slurm / "env").exists()


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize(
    "printed",
    [
        "NOTE: project hours left 1200; this job 17 will cost 3 SBU\n5",
        "17\n5;bed\n",
        "Submitted batch job 5 on cluster bed\n",
        "",
    ],
)
def test_an_array_has_its_own_id_whatever_a_site_prints(
    store: Store, slurm: Path, printed: str, tasks: int
) -> None:
    (slurm / "sbatch").write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    listed = f'echo "5_[0-{tasks - 1}%2]|PENDING|Priority||0|N/A|$name|"'
    (slurm / "squeue").write_text(f'#!/bin/sh\nfor name in "$@"; do :; done\n{listed}\n')
    sweep = store.sweep("s")
    jobs, rows = [WORK] * tasks, {"first": 0, "end": tasks, "per": 1}
    testbed = read_profile("testbed")
    assert array.hand_over(jobs, sweep, slurm, slurm / "m", testbed, **rows) == "5"
    (row,) = read_jsonl(sweep.submissions)
    assert row["array"] == "5"


@pytest.mark.parametrize("user", ["somebody else", None])
@pytest.mark.parametrize("private", ["none", "accounts,jobs"])
def test_the_jobs_of_another_user_may_be_hidden_and_are_not_queued_twice(
    again: Grid,
    store: Store,
    slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: str | None,
    private: str,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 2**20)
    text = f"[ $1 = show ] && echo 'PrivateData             = {private}'"
    (slurm / "scontrol").write_text(f"#!/bin/sh\n{text}\nexit 0\n")
    sweep = submissions.record_grid(again, store)
    manifest, about = submissions.freeze_runs(again.runs, sweep, store), {"array": "5", "tasks": 3}
    about |= {"first": 0, "end": 3, "per": 1, "user": user}
    submissions.record(sweep, manifest, read_profile("testbed"), name="epsweep-again-0a", **about)
    hidden = user is not None and private != "none"
    for grid, word in ((again, ""), (replace(again, name="other"), "for again, ")):
        seen = launcher.look(grid, store)
        assert seen.counts == {State.PENDING if hidden else State.NEW: 3}
        if hidden:
            told = f"{word}a job of somebody else, not visible to you"
            assert {status.reason for status in seen.statuses} == {told}
    assert len(session.at_work(sweep)) == (3 if hidden else 0)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (JobState("PENDING", "Priority", current=True, id="5"), State.PENDING),
        (JobState("FAILED", current=True, id="5"), State.NEW),
        (JobState(current=True), State.NEW),
        (JobState(), State.NEW),  # Slurm is down, or not here: a copy of the store
    ],
)
def test_only_a_job_that_slurm_knows_keeps_a_run_for_another_grid(
    again: Grid, store: Store, monkeypatch: pytest.MonkeyPatch, answer: JobState, state: State
) -> None:
    sweep = submissions.record_grid(again, store)
    manifest, profile = submissions.freeze_runs(again.runs, sweep, store), read_profile("testbed")
    about = {"array": "5", "tasks": 3, "first": 0, "end": 3, "per": 1}
    submissions.record(sweep, manifest, profile, name="epsweep-again-0a", **about)
    monkeypatch.setattr(cluster, "jobs", lambda ids, names=(): dict.fromkeys(ids, answer))
    seen = launcher.look(replace(again, name="other"), store)
    assert seen.counts == {state: 3}
    assert {status.reason for status in seen.statuses} == (
        {"for again, Priority"} if state is State.PENDING else {None}
    )


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("taken", [True, False])
def test_an_array_that_sbatch_gave_up_on_is_forgotten_only_if_slurm_has_none(
    store: Store, slurm: Path, tasks: int, taken: bool
) -> None:
    """It may have been taken although the answer came too late."""
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Socket timed out' >&2; exit 1\n")
    if taken:
        job = "7_[0-2]" if tasks > 1 else "7"
        line = f'echo "{job}|PENDING|Priority||0|N/A|$name|"'
        text = f'#!/bin/sh\nfor name in "$@"; do :; done\n{line}\n'
        (slurm / "squeue").write_text(text)
    sweep, where = store.sweep("my_question"), read_profile("testbed")
    sweep.logs.mkdir(parents=True)
    rows = {"first": 0, "end": tasks, "per": 1}
    with pytest.raises(ClusterError, match="Socket timed out"):
        array.hand_over([WORK] * tasks, sweep, slurm, slurm / "m", where, **rows)
    assert len(read_jsonl(sweep.submissions)) == taken


def test_workers_of_searches_whose_id_was_never_learnt_are_known_by_name(
    store: Store, slurm: Path
) -> None:
    sweep = store.sweep("again")
    row = {"name": "epsweep-tune-0a", "array": None, "tasks": 2, "first": 0, "end": 2, "per": 1}
    submissions.record(sweep, slurm / "m", read_profile("testbed"), **row)
    text = "#!/bin/sh\necho '7_[0-1]|PENDING|Priority||0|N/A|epsweep-tune-0a|'\n"
    (slurm / "squeue").write_text(text)
    assert [item.job for item in session.at_work(sweep)] == ["7_0", "7_1"]


def test_no_command_of_a_profile_leads_around_the_frozen_code(
    again: Grid, store: Store, slurm: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "executor: slurm\nenv: {PYTHONPATH: /edited/1}\n"
        "slurm: {timeout_min: 9, slurm_setup: ['export PYTHONPATH=/edited/2']}\n"
    )
    frozen_code.snapshot(store.sweep(again.name))
    script = batch_script.text(1, store.sweep(again.name), read_profile(path))
    commands = "\n".join(line for line in script.splitlines() if not line.startswith("srun"))
    shown = subprocess.run(
        ["bash", "-c", f"{commands}\necho $PYTHONPATH"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith(f"{store.sweep(again.name).path}/code/")
    assert shown.stdout.endswith(":/edited/2\n"), "packages that a site gives are found behind"

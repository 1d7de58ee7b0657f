"""Launching on a real Slurm: arrays, limits, idempotence, frozen code, packing, crashes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_bed import inside, needs_database, needs_slurm
from slurm_sweep import ROOT, Sweep
from waiting import ended, until

from core.errors import ClusterError
from slurm.testbed import Bed, install
from sweep.submit import array, submissions

pytestmark = needs_slurm
HELD = {"slurm_additional_parameters": {"hold": True}}


BED = {"acct": "shim" if install.missing(dbd=True) else "dbd", "max_array_size": 5}
"""With a real accounting, which lags behind, where there is a database."""


@pytest.fixture
def tiny(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A sweep on the bed; no job survives its test."""
    yield from on(bed, tmp_path, monkeypatch)


def on(bed: Bed, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    with inside(bed, monkeypatch, EPSWEEP_STALE_S="10"):
        made = Sweep(folder, bed)
        made.write_grid()
        made.write_profile()
        yield made


def queued(bed: Bed) -> list[str]:
    """Every task in the queue."""
    return sorted(bed.run("squeue", "-h", "-r", "-o", "%i").split())


def test_one_array_per_chunk_and_nothing_is_submitted_twice(tiny: Sweep) -> None:
    tiny.write_grid(seeds=12)
    tiny.write_profile(HELD)
    said = tiny.launch()
    assert "12 runs submitted: 12 tasks, arrays " in said
    assert [row["tasks"] for row in tiny.submissions()] == [5, 5, 2]
    arrays = [row["array"] for row in tiny.submissions()]
    assert {task.partition("_")[0] for task in queued(tiny.bed)} == set(arrays)
    assert len(queued(tiny.bed)) == 12
    assert tiny.states() == {"pending": 12}
    assert {s.job for s in tiny.look().statuses} == set(queued(tiny.bed))
    assert {s.reason for s in tiny.look().statuses} == {"JobHeldUser"}
    assert "nothing to submit" in tiny.launch()
    assert len(queued(tiny.bed)) == 12
    names = {row["name"] for row in tiny.submissions()}
    assert names == set(tiny.bed.run("squeue", "-h", "-o", "%j").split())


def test_a_launch_writes_as_many_files_for_five_runs_as_for_two(tiny: Sweep) -> None:
    """Files per array, not per run: ten thousand of them take minutes on a shared file system."""
    tiny.write_profile(HELD)
    counts = []
    for runs in (2, 7):  # five more than before
        tiny.write_grid(seeds=runs)
        before = {*tiny.store.root.rglob("*")}
        tiny.launch()
        counts.append(sum("code" not in p.parts for p in {*tiny.store.root.rglob("*")} - before))
    assert tiny.states() == {"pending": 7}
    assert counts[1] <= counts[0]


def test_a_run_alone_in_its_array(tiny: Sweep) -> None:
    tiny.write_profile(HELD)
    command = ("launch", str(tiny.grid_file), "--profile", str(tiny.profile_file))
    for found in ("1 run submitted", "nothing to submit"):
        process = tiny.command(*command)
        said = ended(process)
        assert found in said
        assert process.returncode == 0, "a script may repeat it"
        assert queued(tiny.bed) == [tiny.job()], "a plain job: its id has no index"


def test_two_launches_at_the_same_moment(tiny: Sweep) -> None:
    tiny.write_grid(seeds=8)
    tiny.write_profile(HELD)
    command = ("launch", str(tiny.grid_file), "--profile", str(tiny.profile_file))
    both = [tiny.command(*command) for _ in range(2)]
    said = [ended(process) for process in both]
    assert len(queued(tiny.bed)) == 8, said
    assert tiny.states() == {"pending": 8}
    codes = [process.returncode for process in both]
    assert 0 in codes, said
    for code, text in zip(codes, said, strict=True):
        late = ("another launch is submitting it right now", "nothing to submit")
        assert code == 0 or any(word in text for word in late)


def test_the_script_that_dry_run_shows_is_the_one_submitted(tiny: Sweep) -> None:
    tiny.write_grid(seeds=2)
    tiny.write_profile(HELD, env={"TOKENIZERS_PARALLELISM": "false"})
    command = ("launch", str(tiny.grid_file), "--profile", str(tiny.profile_file))
    process = tiny.command(*command, "--dry-run")
    shown = ended(process)
    assert process.returncode == 0, shown
    assert "# sbatch --test-only: Job " in shown
    assert queued(tiny.bed) == []
    tiny.launch()
    (row,) = tiny.submissions()
    script = next(tiny.sweep.logs.glob("*submission.sh")).read_text()
    assert script.replace(row["name"], "epsweep-tiny").strip() in shown


def test_a_job_that_slurm_would_refuse_is_reported_by_dry_run(tiny: Sweep) -> None:
    tiny.write_profile({"mem_gb": 9000})
    command = ("launch", str(tiny.grid_file), "--profile", str(tiny.profile_file))
    process = tiny.command(*command, "--dry-run")
    shown = ended(process)
    assert process.returncode == 1
    assert "node configuration is not available" in shown.splitlines()[-1]
    assert "Traceback" not in shown
    with pytest.raises(ClusterError, match="node configuration is not available"):
        tiny.launch()
    assert tiny.submissions() == []
    assert tiny.states() == {"new": 1}


class Died(BaseException):
    """The launcher is gone."""


def die_when(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Let the launcher die instead of recording an array whose id it knows (or not)."""
    record = submissions.record

    def dying(*args: Any, **row: Any) -> None:
        if (row["array"] is not None) == known:
            raise Died
        record(*args, **row)

    monkeypatch.setattr(submissions, "record", dying)


def test_jobs_of_a_launcher_that_died_after_sbatch_are_found(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the next launch submit the same runs again."""
    tiny.write_grid(seeds=3)
    tiny.write_profile(HELD)
    with monkeypatch.context() as patch:
        die_when(patch, known=True)
        with pytest.raises(Died):
            tiny.launch()
    (row,) = tiny.submissions()
    assert row["array"] is None
    assert tiny.states() == {"pending": 3}
    assert {s.job for s in tiny.look().statuses} == set(queued(tiny.bed))
    assert "nothing to submit" in tiny.launch()
    assert len(queued(tiny.bed)) == 3


def test_a_launcher_that_dies_before_sbatch_leaves_nothing_pending(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_profile(HELD)
    with monkeypatch.context() as patch:
        patch.setattr(array.cluster, "submit", lambda *_: (_ for _ in ()).throw(Died))
        with pytest.raises(Died):
            tiny.launch()
    assert [row["array"] for row in tiny.submissions()] == [None]
    assert tiny.states() == {"new": 1}
    tiny.launch()
    assert tiny.states() == {"pending": 1}
    assert len(queued(tiny.bed)) == 1


@pytest.mark.slow
def test_slurmctld_that_is_down_or_forgets_loses_no_run(tiny: Sweep, tmp_path: Path) -> None:
    """A killed slurmctld forgets the last seconds and gives the ids of those jobs to others."""
    tiny.write_grid(seeds=3)
    tiny.write_profile(HELD)
    bed = tiny.bed
    bed.stop_daemon("slurmctld", signal.SIGTERM)
    shutil.copytree(bed.root / "state", tmp_path / "state")
    bed.start_daemon("slurmctld")
    bed.wait_idle()
    tiny.launch()
    first = tiny.submissions()[0]["array"]
    bed.stop_daemon("slurmctld", signal.SIGKILL)
    assert tiny.states() == {"pending": 3}, "no answer is no reason to submit again"
    shutil.rmtree(bed.root / "state")
    shutil.copytree(tmp_path / "state", bed.root / "state")
    bed.start_daemon("slurmctld")
    bed.wait_idle()
    stranger = bed.run("sbatch", "--parsable", "--hold", "-o", "/dev/null", "--wrap", "true")
    assert stranger.strip() == first
    assert tiny.states() == {"new": 3}, "a job that got our id is not ours"
    tiny.launch()
    assert tiny.states() == {"pending": 3}
    assert len(queued(bed)) == 4


@pytest.mark.slow
def test_a_launch_without_slurmctld_is_one_line_and_leaves_nothing(tiny: Sweep) -> None:
    tiny.bed.stop_daemon("slurmctld", signal.SIGTERM)
    command = ("launch", str(tiny.grid_file), "--profile", str(tiny.profile_file))
    process = tiny.command(*command)
    said = ended(process)
    tiny.bed.start_daemon("slurmctld")
    tiny.bed.wait_idle()
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "sbatch refused: " in said.splitlines()[-1]
    assert tiny.states() == {"new": 1}


@pytest.mark.slow
def test_queued_jobs_run_the_code_and_configs_they_were_launched_with(
    tiny: Sweep, tmp_path: Path
) -> None:
    """The launch is made from a checkout that is edited afterwards, and started in its folder."""
    checkout = tmp_path / "checkout"
    for name in ("core", "sweep", "slurm", "analysis"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    tiny.write_profile(HELD)
    environ = os.environ | {"PYTHONPATH": str(checkout)}
    command = ("launch", str(tiny.grid_file), "--profile", str(tiny.profile_file))
    process = tiny.command(*command, cwd=checkout, env=environ)
    said = ended(process)
    assert process.returncode == 0, said
    run, job = tiny.run, tiny.job()
    for file in (checkout / "core" / "run.py", checkout / "sweep" / "job.py"):
        file.write_text("raise SystemExit('edited after the launch')\n")
    tiny.write_grid(epochs=1)
    tiny.bed.run("scontrol", "release", job)
    until(lambda: run.result.exists() or not tiny.bed.run("squeue", "-h"))
    assert run.result.exists(), (tiny.sweep.logs / f"{job}_0_log.err").read_text()
    env = json.loads(run.env.read_text())
    assert env["code"] == tiny.submissions()[0]["code"]
    assert json.loads(run.result.read_text())["epochs"] == 3
    assert tiny.states() == {"new": 1}, "the edited grid asks for another run"


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["serial", "parallel"])
def test_several_runs_per_job_one_of_which_fails(tiny: Sweep, packing: str) -> None:
    tiny.write_grid(seeds=2, include=[{"schedule": "fix", "seed": 7, "optim.lr": 1e30}])
    tiny.write_profile({"mem_gb": 3}, runs_per_job=3, packing=packing)
    said = tiny.launch()
    assert "3 runs submitted: 1 task, arrays" in said
    until(lambda: sum(tiny.states().get(s, 0) for s in ("done", "failed")) == 3)
    failed = [s for s in tiny.look().statuses if s.kind]
    assert [(s.kind, s.run.config.seed) for s in failed] == [("diverged", 7)]
    assert tiny.states() == {"done": 2, "failed": 1}
    tiny.over()
    assert "nothing to submit" in tiny.launch()
    gpu_hours = [s.gpu_seconds / s.seconds for s in tiny.look().statuses]
    share = 1 / 3 if packing == "parallel" else 1
    assert gpu_hours == pytest.approx([share] * 3)


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A sweep on a bed whose accounting lets each user submit four jobs."""
    with Bed(nodes=1, acct="dbd", max_submit=4, max_array_size=3, kill_wait=2) as bed:
        yield from on(bed, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs_database)])
def test_what_fits_is_submitted_and_the_rest_follows(
    limited: Sweep, monkeypatch: pytest.MonkeyPatch, mark: None
) -> None:
    tiny = limited
    tiny.write_grid(seeds=7)
    tiny.write_profile(HELD)
    said = tiny.launch()
    assert "4 runs submitted: 4 tasks" in said
    assert "no room yet for 3 runs (MaxSubmitJobs" in said
    assert tiny.states() == {"pending": 4, "new": 3}
    said = tiny.launch()
    assert "no room yet for 3 runs (MaxSubmitJobs" in said
    tiny.bed.run("scancel", *queued(tiny.bed)[:2])
    until(lambda: len(queued(tiny.bed)) == 2)
    monkeypatch.setattr(array.limits, "read", lambda *_: array.limits.Limits())
    said = tiny.launch()
    assert "2 runs submitted" in said, "limits that cannot be read are met all the same"
    assert "no room yet for 3 runs (sbatch refused: AssocMaxSubmitJobLimit" in said
    assert len(queued(tiny.bed)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs_database)])
def test_feeding_goes_on_until_all_is_submitted(limited: Sweep, mark: None) -> None:
    tiny = limited
    tiny.write_grid(seeds=6, epochs=1)
    tiny.write_profile(HELD)
    code = (
        "import sys; from sweep import launcher; launcher.FEED_S = 0.5\n"
        "from sweep.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "launch", str(tiny.grid_file), "--feed"]
    command += ["--profile", str(tiny.profile_file), "--root", str(tiny.store.root)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
    until(lambda: len(queued(tiny.bed)) == 4)
    taken = set(queued(tiny.bed))
    tiny.bed.run("scancel", *sorted(taken)[:3])
    until(lambda: len(set(queued(tiny.bed)) - taken) == 2)
    said = ended(process)
    assert process.returncode == 0, said
    assert "4 runs submitted" in said and "2 runs submitted" in said


def test_jobs_import_the_own_code_that_was_frozen(
    tiny: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is edited while the job waits does not reach it."""
    example = Path(__file__).parents[2] / "examples" / "own_code.py"
    mine = tmp_path / "my_loss.py"
    mine.write_text(example.read_text())
    monkeypatch.chdir(tmp_path)
    tiny.write_grid(objective={"kind": "my_loss:Smooth", "smoothing": 0.2})
    tiny.write_profile(HELD)
    assert "1 run submitted" in tiny.launch()
    run, (job,) = tiny.run, queued(tiny.bed)
    mine.write_text("raise SystemExit('edited after the launch')")
    tiny.bed.run("scontrol", "release", job)
    until(run.result.exists)
    config = run.read_config()
    assert config["objective"]["kind"] == "my_loss:Smooth" and [*config["code"]] == [
        "my_loss:Smooth"
    ]

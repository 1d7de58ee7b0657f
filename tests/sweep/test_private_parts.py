"""What we use of submitit and Optuna beside their documentation: a release that moves a part of it
fails here, by name, and not in a sweep."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import submitit
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial
from submitit.core import core, plugins, submission, utils
from submitit.local import local
from submitit.slurm.slurm import SlurmExecutor

from slurm.profile import read_profile

SIGNATURES: list[tuple[Callable[..., Any], list[str]]] = [
    (SlurmExecutor.__init__, ["self", "folder", "max_num_timeout", "max_pickle_size_gb", "python"]),
    (SlurmExecutor._make_submission_file_text, ["self", "command", "uid"]),
    (submission.process_job, ["folder"]),
    (local.LocalExecutor._internal_process_submissions, ["self", "delayed_submissions"]),
    (utils.DelayedSubmission.dump, ["self", "filepath"]),
    (utils.DelayedSubmission.load, ["filepath"]),
    (utils.DelayedSubmission.set_timeout, ["self", "timeout_min", "max_num_timeout"]),
    (plugins.get_executors, []),
    (core.Executor._valid_parameters, []),
    (optuna.Trial.__init__, ["self", "study", "trial_id"]),
    (JournalFileBackend.__init__, ["self", "file_path", "lock_obj"]),
    (JournalFileBackend.append_logs, ["self", "logs"]),
    (JournalFileOpenLock.acquire, ["self"]),
    (JournalFileOpenLock.release, ["self"]),
]


@pytest.mark.parametrize(
    ("part", "expected"),
    SIGNATURES,
    ids=[f"{p.__module__}.{p.__qualname__}" for p, _ in SIGNATURES],
)
def test_a_part_takes_what_we_give_it(part: Callable[..., Any], expected: list[str]) -> None:
    assert [*inspect.signature(part).parameters] == expected


def test_an_executor_of_slurm_is_made_and_told_as_we_do(tmp_path: Path) -> None:
    made = submitit.AutoExecutor(tmp_path, **read_profile("testbed").executor_options())
    assert type(made._executor) is SlurmExecutor, "we put our own in its place"
    plain = made._executor
    assert {"folder", "max_num_timeout", "python", "parameters"} <= {*vars(plain)}
    assert isinstance(SlurmExecutor._submitit_command_str, property), "we say what a job runs"
    made.update_parameters(slurm_job_name="n", timeout_min=7, slurm_setup=["a line"])
    assert (plain.parameters["job_name"], plain.parameters["time"]) == ("n", 7)
    plain.parameters["map_count"] = 3
    text = plain._make_submission_file_text("a command", "")
    assert "#SBATCH --array=0-2" in text and "a line\n" in text and "a command" in text
    assert f"{tmp_path.resolve()}/%A_%a_%t_log.err" in text, "logs are looked for by that name"
    assert SlurmExecutor.job_class.watcher, "never asked: its answer may lag"


def test_a_job_reads_its_task_through_a_name_that_we_replace() -> None:
    assert submission.utils is utils
    assert "utils.DelayedSubmission.load(" in inspect.getsource(submission.process_job)


def test_the_files_of_a_job_have_the_names_by_which_we_find_them(tmp_path: Path) -> None:
    paths = utils.JobPaths(tmp_path, "7_1", 0)
    names = (paths.submitted_pickle, paths.result_pickle, paths.stderr, paths.stdout)
    assert [path.name for path in names] == [
        "7_1_submitted.pkl",
        "7_1_0_result.pkl",
        "7_1_0_log.err",
        "7_1_0_log.out",
    ]
    assert paths.folder == tmp_path


def test_a_local_worker_is_started_and_named_as_we_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs that have names are no indices, so they are set past the check of arguments."""
    given: list[dict[str, Any]] = []

    def controller(**options: Any) -> SimpleNamespace:
        given.append(options)
        return SimpleNamespace(pid=2**30, poll=lambda: 0)

    monkeypatch.setattr(local, "start_controller", controller)
    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(timeout_min=5, tasks_per_node=1, gpus_per_node=1)
    executor.parameters["visible_gpus"] = ["GPU-a"]
    assert executor.submit(len, "").job_id == str(2**30), "the id is the process"
    (options,) = given
    assert options["cuda_devices"] == "GPU-a"
    assert options["command"] == executor._submitit_command_str, "we say what a worker runs"
    assert local.LocalJobEnvironment._env["job_id"] == "SUBMITIT_LOCAL_JOB_ID"


def test_a_trial_of_optuna_is_taken_up_again_by_its_number() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    began = study.ask()
    (frozen,) = study.get_trials(deepcopy=False)
    assert isinstance(frozen, FrozenTrial) and frozen._trial_id == began._trial_id
    again = optuna.Trial(study, frozen._trial_id)
    assert again.number == began.number
    study.tell(again, 1.0, skip_if_finished=True)

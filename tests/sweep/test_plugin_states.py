"""What executors of plug-ins say of their jobs, told in Slurm's terms."""

from pathlib import Path

import pytest
from submitit.core.utils import JobPaths, cloudpickle_dump

from core.errors import ClusterError
from sweep.state.pending import Pending
from sweep.submit import backends
from sweep.submit.plugin import Plugin


class Told:
    """A job with what an executor says of it."""

    def __init__(self, logs: Path, state: str) -> None:
        self.state, self.paths = state, JobPaths(logs, "7")

    def done(self) -> bool:
        open_words = ("UNKNOWN", "PENDING", "RUNNING", "READY")
        return self.state not in open_words or self.paths.result_pickle.exists()


@pytest.mark.parametrize(
    ("said", "result", "state", "ended"),
    [
        ("RUNNING", None, "RUNNING", None),
        ("READY", None, "PENDING", None),
        ("UNKNOWN", None, "UNKNOWN", None),
        ("GONE", "success", "COMPLETED", None),
        ("UNKNOWN", "success", "COMPLETED", None),
        ("GONE", "error", "FAILED", ("bug", "its process ended by exit code 1: last words")),
        ("GONE", None, "FAILED", ("killed", "its process ended without a result: last words")),
        ("TIMEOUT", None, "TIMEOUT", ("timeout", "time limit")),
    ],
)
def test_what_an_executor_says_is_told_in_the_words_of_slurm(
    tmp_path: Path, said: str, result: str | None, state: str, ended: tuple[str, str] | None
) -> None:
    job = Told(tmp_path, said)
    if result:
        cloudpickle_dump((result, {}), job.paths.result_pickle)
    (tmp_path / "7_0_log.err").write_text("last words\n")
    found = Plugin("x")._state(job)
    assert found.state == state and Pending("7", 0, state=found, logs=tmp_path).ended() == ended
    is_over = result is not None or said in ("GONE", "TIMEOUT")
    assert Pending("7", 0, state=found).live is not is_over


def test_no_answer_keeps_a_promise_and_refuses_to_end_the_job(tmp_path: Path) -> None:
    """The package was removed since, say."""
    item = Pending("7", 0, "n", logs=tmp_path, executor="removed")
    (told,) = backends.states({0: item}).values()
    assert told.live and told.state
    assert told.state.reason == "no answer from executor removed: not installed here"
    with pytest.raises(ClusterError, match="executor removed: job 7 cannot be ended: not in"):
        backends.stop([item])

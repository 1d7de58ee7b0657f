"""An executor that a package adds to submitit, used through a profile: every verb works on it."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from submitit.core import plugins
from submitit.core.core import PicklingExecutor
from waiting import until

from core.config import ConfigError
from core.store.folders import Store
from core.store.holder import find_holder
from core.store.json_files import read_jsonl
from slurm.profile import read_profile
from sweep import launcher
from sweep.grid import load_grid

Call = Callable[..., tuple[int, str, str]]
FARM = '''
"""A machine room in a nutshell: jobs are processes that begin once the file GATE is there."""
import os
import signal
import sys
from pathlib import Path

from submitit.core import core, job_environment

GATE = Path(__file__).with_name("gate")


class Watcher(core.InfoWatcher):
    def get_state(self, job_id, mode="standard"):
        try:
            state = Path(f"/proc/{job_id}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            state = "Z"
        return "GONE" if state == "Z" else "RUNNING" if GATE.exists() else "PENDING"


class FarmJob(core.Job):
    watcher = Watcher()

    def cancel(self, check=True):
        os.killpg(int(self.job_id), signal.SIGTERM)


class FarmJobEnvironment(job_environment.JobEnvironment):
    # A job is one process, so all but its id is as by default, whatever the variable.
    _env = {"job_id": "FARM_ID"} | dict.fromkeys(
        ("num_tasks", "num_nodes", "node", "global_rank", "local_rank"), "FARM_NONE"
    )

    @classmethod
    def name(cls):
        return "my_farm"


class FarmExecutor(core.PicklingExecutor):
    job_class = FarmJob

    @classmethod
    def name(cls):
        return "my_farm"

    @classmethod
    def _valid_parameters(cls):
        return {"queue"}

    def _internal_update_parameters(self, **given):
        if given.get("queue", "day") not in ("day", "night"):
            raise ValueError(f"no queue {given['queue']!r}:\\n  expected day or night")
        super()._internal_update_parameters(**given)

    def _num_tasks(self):
        return 1

    @property
    def _submitit_command_str(self):
        return f"{sys.executable} -m submitit.core._submit {self.folder}"

    def _make_submission_file_text(self, command, uid):
        wait = f"while [ ! -e {GATE} ]; do sleep 0.05; done"
        job = f"export FARM_ID=$$ SUBMITIT_EXECUTOR=my_farm; {wait}; exec {command}"
        logs = f"exec >{self.folder}/$$_0_log.out 2>{self.folder}/$$_0_log.err"
        return f"exec 3>&1; setsid sh -c 'echo $$ >&3; exec 3>&-; {logs}; {job}' &"

    def _make_submission_command(self, path):
        return ["sh", str(path)]

    @staticmethod
    def _get_job_id_from_submission_command(text):
        return (text.decode() if isinstance(text, bytes) else text).strip()
'''
MINE = "executor: my_farm\nparameters: {timeout_min: 9}\n"
GRID = """
name: far
base: {weights: random, image_size: 32, epochs: 1, backbone: mini_convnext, dataset: fake}
seeds: [0, 1]
evals: [{epsilons: 0..4/255, steps: 1}]
"""


def _forget() -> None:
    for known in (plugins._get_plugins, plugins.get_executors, plugins.get_job_environments):
        known.cache_clear()


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """An installed package with the executor `my_farm`; `gate` lets its jobs begin."""
    place = tmp_path / "site"
    about = place / "farm-1.0.dist-info"
    about.mkdir(parents=True)
    (place / "farm.py").write_text(FARM)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: farm\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[submitit]\nexecutor = farm:FarmExecutor\njob_environment = farm:FarmJobEnvironment\n"
    )
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", str(place))
    _forget()
    profile = tmp_path / "farm.yaml"
    profile.write_text(
        "executor: my_farm\nparameters: {queue: night, timeout_min: 30}\ngpus_per_run: 0\n"
    )
    grid = tmp_path / "far.yaml"
    grid.write_text(GRID)
    gate = place / "gate"
    yield SimpleNamespace(profile=profile, grid=str(grid), gate=gate, package=about)
    for script in tmp_path.glob("outputs/sweeps/*/logs/*_submission.sh"):
        with suppress(OSError):  # over
            job = int(script.name.partition("_")[0])
            if str(place) in Path(f"/proc/{job}/environ").read_text():
                os.killpg(job, signal.SIGKILL)
    _forget()
    sys.modules.pop("farm", None)


def _statuses(call: Call, grid: str) -> list[dict[str, Any]]:
    code, out, err = call("status", grid, "--json")
    assert code in (0, 1, 3), err
    runs: list[dict[str, Any]] = json.loads(out)["runs"]
    return sorted(runs, key=lambda run: int(run["config"]["seed"]))


@pytest.mark.slow  # 8 s, and more on a busy machine
def test_the_verbs_work_on_the_jobs_of_a_plugin(
    farm: SimpleNamespace, store: Store, call: Call
) -> None:
    """Jobs wait until the gate opens, so no step depends on how fast they are."""
    profile = ("--profile", str(farm.profile))
    sweep = store.sweep("far")

    def states() -> list[str]:
        return [run["state"] for run in _statuses(call, farm.grid)]

    def jobs() -> list[str]:
        return [job for row in read_jsonl(sweep.submissions) for job in row["jobs"]]

    code, out, err = call("launch", farm.grid, *profile, "--dry-run")
    assert code == 0 and "2 jobs of executor my_farm for 2 runs" in out, err
    assert "-m submitit.core._submit" in out and not sweep.submissions.exists()

    code, out, err = call("launch", farm.grid, *profile)
    assert code == 0 and "2 runs submitted: 2 tasks" in out, err
    assert states() == ["pending", "pending"]
    call("launch", farm.grid, *profile)
    assert len(jobs()) == 2, "what is on its way is not submitted again"
    first, _ = (run.id for run in load_grid(farm.grid).runs)
    assert f"job {jobs()[0]} has not begun" in call("logs", first)[2]

    code, out, err = call("cancel", farm.grid, "--only", "seed=0")
    assert code == 0 and "1 run asked to stop" in out, err
    until(lambda: not _alive(jobs()[0]))
    assert _alive(jobs()[1]) and states() == ["cancelled", "pending"]
    os.killpg(int(jobs()[1]), signal.SIGKILL)
    until(lambda: states() == ["cancelled", "new"])
    (_, killed) = _statuses(call, farm.grid)
    assert "its job ended before the run began" in killed["reason"]

    farm.gate.touch()
    code, out, err = call("retry", farm.grid, *profile)
    assert code == 0 and "1 run submitted: 1 task, arrays" in out, err
    until(lambda: not _alive(jobs()[2]))
    assert states() == ["done", "new"]
    assert "attempt 1 of" in call("logs", first)[1]
    claim = find_holder(store.run(first))
    assert claim and claim.info["job"] == jobs()[2], "what cancel and hung compare"


@pytest.mark.slow  # 10 s, and more on a busy machine
def test_searches_with_own_code_are_tuned_on_a_plugin(
    farm: SimpleNamespace, store: Store, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The worker imports the copy of the user's loss that was frozen, as a job of a launch does."""
    example = Path(__file__).parents[2] / "examples" / "own_code.py"
    monkeypatch.chdir(tmp_path)
    Path("my_loss.py").write_text(example.read_text())
    text = GRID.replace("base: {", "base: {objective: {kind: 'my_loss:Smooth'}, schedule: fix, ")
    Path(farm.grid).write_text(text + "tune: {trials: 2}\n")
    code, out, err = call("tune", farm.grid, "--profile", str(farm.profile))
    assert code == 3 and "1 worker on 1 search: arrays" in out, err
    assert "1 worker: 1 pending" in call("tune", farm.grid, "--status")[1]
    Path("my_loss.py").write_text("raise SystemExit('edited after the launch')")
    farm.gate.touch()
    (row,) = read_jsonl(store.sweep("far").path / "tune" / "submissions.jsonl")
    until(lambda: not _alive(row["jobs"][0]))
    Path("my_loss.py").write_text(example.read_text())
    code, out, _ = call("tune", farm.grid, "--status")
    assert code == 0 and "1 of 1 search finished, 2 of 2 trials" in out


def _alive(job: str) -> bool:
    stat = Path(f"/proc/{job}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("{queue: day}", "parameters.timeout_min: required (submitit's default is 5 minutes)"),
        ("{queu: day, timeout_min: 9}", "parameters: queu: unknown key, did you mean 'queue'?"),
        (
            "{nodes: 2, timeout_min: 9}",
            "parameters: nodes: unknown key (known: timeout_min, mem_gb",
        ),
        ("{queue: dusk, timeout_min: 9}", "parameters: no queue 'dusk': expected day or night"),
        ("{timeout_min: soon}", 'parameters: Parameter "timeout_min" expected type'),
        ("{API_TOKEN: x}", "farm.yaml:2: parameters.API_TOKEN: "),
        ("[queue]", "farm.yaml:2: parameters: expected a mapping, got ['queue']"),
    ],
)
def test_a_wrong_parameter_is_one_line(
    farm: SimpleNamespace, store: Store, call: Call, parameters: str, said: str
) -> None:
    farm.profile.write_text(f"executor: my_farm\nparameters: {parameters}\ngpus_per_run: 0\n")
    for dry in ((), ("--dry-run",)):
        code, _, err = call("launch", farm.grid, "--profile", str(farm.profile), *dry)
        assert code == 2 and said in " ".join(err.split()) and err.count("\n") == 1, err
    assert not store.sweep("far").submissions.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "executor: my_frm",
            "expected one of local, debug, slurm, ray, my_farm, got 'my_frm', did you",
        ),
        ("executor: slrm", "did you mean 'slurm'?"),
        ("executor: local\nparameters: {}", "parameters: only for Ray and plug-ins"),
        (f"{MINE}gpus_per_run: 2", "gpus_per_run: executor 'my_farm' has one process"),
        (f"{MINE}max_requeues: 2", "max_requeues: only for executor 'slurm'"),
    ],
)
def test_a_profile_that_fits_no_executor_is_refused(
    farm: SimpleNamespace, text: str, said: str
) -> None:
    farm.profile.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_profile(farm.profile)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_doctor_asks_the_executor(farm: SimpleNamespace, call: Call) -> None:
    """What a launch would be refused for."""
    for queue, verdict, said in (
        ("day", "ok", "my_farm accepts the profile's parameters"),
        ("dusk", "fail", "parameters: no queue 'dusk': expected day or night"),
    ):
        farm.profile.write_text(MINE.replace("{", f"{{queue: {queue}, "))
        _, out, _ = call("doctor", "--profile", str(farm.profile), "--json")
        (found,) = [check for check in json.loads(out) if check["name"] == "executor"]
        assert found["verdict"] == verdict and said in found["detail"]


def test_a_plugin_that_cannot_be_imported_is_named(farm: SimpleNamespace) -> None:
    (farm.package.parent / "farm.py").write_text("import a_library_of_the_site")
    with pytest.raises(ConfigError, match="got 'my_farm'; plug-in farm:FarmExecutor cannot be im"):
        read_profile(farm.profile)


def test_no_limit_on_jobs_at_a_time_is_promised(farm: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="--max-parallel: does not apply to executor my_farm"):
        launcher.load_profile(str(farm.profile), max_parallel=1)


def test_a_refusal_midway_leaves_on_record_what_was_submitted(
    farm: SimpleNamespace, store: Store, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, taken = PicklingExecutor.submit, list[object]()

    def one(self: PicklingExecutor, task: Any) -> Any:
        if taken:
            raise RuntimeError("quota\nreached")
        taken.append(task)
        return submit(self, task)

    monkeypatch.setattr(PicklingExecutor, "submit", one)
    code, _, err = call("launch", farm.grid, "--profile", str(farm.profile))
    assert code == 1 and "executor my_farm refused: quota reached" in err
    assert [run["state"] for run in _statuses(call, farm.grid)] == ["pending", "new"]

"""Workers of this machine: each has its own GPU, and what takes its place has that one too."""

import io
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from submitit.core.utils import FailedJobError, cloudpickle_dump

from core.config import ConfigError, EvalConfig, RunConfig
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import write_json
from slurm.profile import read_profile
from sweep.grid import Grid, load_grid
from sweep.state import pace, plan
from sweep.state.plan import State
from sweep.submit import local, submissions, watcher
from sweep.submit.backend import Crew
from sweep.submit.frozen_code import PACKAGES
from sweep.worker import custody
from sweep.worker.attempt import is_done
from sweep.worker.run_job import RunJob

GRID = """
name: NAME
base: {weights: random, image_size: 32, epochs: 1, backbone: mini_convnext, dataset: fake}
seeds: [0]
evals: [{epsilons: 0..2/255, steps: STEPS}]
"""


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ("", []),
        ("-1", []),
        ("2,3", ["2", "3"]),
        ("GPU-8d1c, MIG-5a/7/0", ["GPU-8d1c", "MIG-5a/7/0"]),
    ],
)
def test_gpus_are_known_by_index_and_by_name(
    monkeypatch: pytest.MonkeyPatch, shown: str, found: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert local.visible_gpus() == found


def test_each_worker_sees_its_own_gpu(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,3")
    seen: list[str] = []

    def controller(**options: Any) -> SimpleNamespace:
        seen.append(options["cuda_devices"])
        return SimpleNamespace(pid=2**30 + len(seen), poll=lambda: 0)

    monkeypatch.setattr("submitit.local.local.start_controller", controller)
    sweep = store.sweep("s")
    sweep.logs.mkdir(parents=True)
    crew = local.engage(lambda _: dict, 2, sweep, tmp_path / "m", read_profile("local"))
    crew.start(1)
    assert seen == ["GPU-a", "3", "3"]


def test_packages_in_the_current_folder_are_not_those_of_workers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everyday names: core, analysis. What the user's path gives beside them is there."""
    here, project = tmp_path / "here", tmp_path / "project"
    for name in ("here/submitit", *(f"{f}/{n}" for f in ("here", "project") for n in PACKAGES)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('of the user: {name}')")
    (project / "given.py").write_text("WHERE = __file__")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(project))
    sweep = store.sweep("s")
    sweep.logs.mkdir(parents=True)
    names = "core.store.claims", "sweep.worker.job", "submitit", "given"
    seen = f"[__import__(name).__file__ for name in {names}]"
    work: Any = partial(eval, seen)
    crew = local.engage(lambda _: work, 1, sweep, tmp_path / "m", read_profile("local"))
    core, ours, theirs, given = crew.jobs[0].result()
    code = str(next((sweep.path / "code").iterdir()))
    assert core.startswith(code) and ours.startswith(code)
    assert given == str(project / "given.py")
    assert not theirs.startswith(str(here))


@pytest.mark.parametrize("odd", ["p%j", "100%accuracy"])
def test_a_folder_that_submitit_would_take_for_a_pattern_is_refused(
    tmp_path: Path, odd: str
) -> None:
    sweep = Store(tmp_path / odd).sweep("s")
    sweep.logs.mkdir(parents=True)
    with pytest.raises(ConfigError, match="by a job's id"):
        local.engage(lambda _: dict, 1, sweep, tmp_path / "m", read_profile("local"))
    assert not [*sweep.logs.iterdir()]


class Job:
    """A worker that has ended: crashed, or (`well`) at the end of its list."""

    def __init__(self, folder: Path, *, well: bool) -> None:
        self.paths = SimpleNamespace(result_pickle=folder if well else folder / "nothing")

    def done(self) -> bool:
        return True


def test_a_worker_takes_the_place_of_the_one_that_died(tmp_path: Path) -> None:
    """As worker 0 it would have the GPU of one that lives."""
    started: list[int] = []

    def start(number: int) -> Any:
        started.append(number)
        return Job(tmp_path, well=True)

    jobs: list[Any] = [Job(tmp_path, well=number != 2) for number in range(4)]
    watcher.attend(
        Crew(jobs, start, tmp_path / "m"),
        Console(file=io.StringIO()),
        lambda _: None,
        show=lambda *_: "",
        brief=lambda _: Text(),
        left=lambda _: True,
        spare=3,
        every=0.0,
    )
    assert started == [2]


def test_watching_looks_at_runs_only_as_often_as_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every tick it only asks whether a worker has ended; then it looks at once."""
    monkeypatch.setattr(pace, "pause", lambda *_: 1e6)
    left = iter([False] * 50)
    job = SimpleNamespace(
        paths=SimpleNamespace(result_pickle=tmp_path), done=lambda: next(left, True)
    )
    looks: list[bool] = []
    jobs: list[Any] = [job]
    watcher.attend(
        Crew(jobs, lambda number: jobs[number], tmp_path / "m"),
        Console(file=io.StringIO()),
        looks.append,
        show=lambda *_: "",
        brief=lambda _: Text(),
        left=lambda _: False,
        spare=0,
        every=0.0,
    )
    assert looks == [True, False]


def test_looking_takes_a_small_share_of_a_core() -> None:
    assert pace.pause(time.thread_time() - 0.1, least=2) >= 0.1 / pace.SHARE
    assert pace.pause(time.thread_time() - 3600) == pace.LONGEST_S
    assert pace.pause(time.thread_time(), least=pace.LONGEST_S + 1) == pace.LONGEST_S + 1
    assert pace.pause(None, least=2) == 2  # the first look reads what later ones skip


def test_a_run_that_another_grid_has_done_meanwhile_gets_the_evaluations_it_lacks(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were launched before either began."""

    def load(name: str, steps: int) -> Grid:
        path = tmp_path / f"{name}.yaml"
        path.write_text(GRID.replace("NAME", name).replace("STEPS", str(steps)))
        return load_grid(path)

    one, other = load("one", 1), load("other", 2)
    assert one.runs[0].id == other.runs[0].id
    sweep = submissions.record_grid(other, store)
    manifest = submissions.freeze_runs(other.runs, sweep, store)
    claim = Claim.acquire(store.run(one.runs[0].id))
    assert claim
    write_json(claim.run.result, {"evals": [item.id for item in one.runs[0].evals]})
    claim.release("done")
    asked: list[str] = []

    def execute(config: RunConfig, evals: Sequence[EvalConfig], *_: object) -> None:
        asked.extend(item.id for item in evals)

    monkeypatch.setattr("core.run.pipeline.execute", execute)
    work = RunJob(str(store.root), "other", str(manifest), 0, 1, tracking="none")
    assert work() == {"done": 1}
    assert asked == [item.id for item in other.runs[0].evals]


def test_an_evaluation_that_was_deleted_is_to_be_made_again(store: Store, tmp_path: Path) -> None:
    """Who reads that its file is damaged is told to remove it."""
    path = tmp_path / "one.yaml"
    path.write_text(GRID.replace("NAME", "one").replace("STEPS", "1"))
    (run,) = load_grid(path).runs
    claim = Claim.acquire(store.run(run.id))
    assert claim
    (asked,) = (claim.run.eval_json(item.id) for item in run.evals)
    row = {"epsilon": "0", "norm": "linf", "n": 4, "correct": 3}
    config = run.evals[0].to_dict()
    write_json(asked, {"config": config, "rows": [row], "n": 4, "split_images": 4})
    write_json(claim.run.result, {"evals": [asked.stem]})
    claim.release("done")
    assert plan.look(run, claim.run).state is State.DONE
    assert is_done(claim.run, run.evals)
    asked.unlink()
    assert plan.look(run, claim.run).state is State.UNEVALUATED
    assert not is_done(claim.run, run.evals)


class Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_how_a_worker_ended_is_read_without_running_what_a_group_could_have_put_there(
    tmp_path: Path,
) -> None:
    file, made = tmp_path / "result.pkl", tmp_path / "made"
    assert custody.outcome(file) is None
    for left in (("success", {"done": 3, "failed": 1}), ("error", "Traceback: 'x'")):
        cloudpickle_dump(left, file)
        assert custody.outcome(file) == left[0]
    whole = file.read_bytes()
    for wrong in (("success", Attack(made)), Attack(made), "success", (), ("done", 1), [[]]):
        cloudpickle_dump(wrong, file)
        assert custody.outcome(file) is None
    assert not made.exists()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert custody.outcome(file) is None


def test_workers_that_cannot_begin_say_why(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise all runs would just stay new."""
    monkeypatch.setattr("submitit.core.utils.pickle_load", lambda path: pytest.fail(f"{path}"))
    path = tmp_path / "one.yaml"
    path.write_text(GRID.replace("NAME", "one").replace("STEPS", "1"))
    grid, console = load_grid(path), Console(file=io.StringIO(), width=200)
    sweep, profile = submissions.record_grid(grid, store), read_profile("local")
    crew = local.engage(lambda _: partial(int, "x"), 1, sweep, tmp_path / "m", profile)
    watcher.wait(crew, grid.runs, store, console)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 new" in said
    assert f"invalid literal for int() with base 10: 'x'; see {sweep.logs}" in said


def test_a_worker_refuses_a_manifest_that_others_may_write(store: Store, tmp_path: Path) -> None:
    sweep, manifest = store.sweep("s"), tmp_path / "m.jsonl"
    sweep.logs.mkdir(parents=True)
    manifest.write_text("{}\n")
    manifest.chmod(0o666)
    module = "__import__('sweep.worker.custody', fromlist=['read'])"
    work: Any = partial(eval, f"{module}.read(__import__('pathlib').Path({str(manifest)!r}))")
    crew = local.engage(lambda _: work, 1, sweep, manifest, read_profile("local"))
    with pytest.raises(FailedJobError, match=r"m\.jsonl: refused, other users may write"):
        crew.jobs[0].result()

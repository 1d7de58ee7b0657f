"""Executor ray: what it says to a cluster and hears from it, and a storm on a real one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from core.errors import ClusterError
from core.store.folders import Store
from core.store.json_files import read_json, read_jsonl
from sweep.grid import load_grid
from sweep.state.pending import Pending
from sweep.submit import backends, ray

Call = Callable[..., tuple[int, str, str]]
GRID = """\
name: far
base: {backbone: test_vit, weights: random, dataset: fake, image_size: 16, epochs: EPOCHS,
       batch: 20, epsilon_g: 1/255, attack.steps: 1, validation: {steps: 1, images: 10}}
seeds: [0, 1, 2]
evals: [{epsilons: 0..1/255, steps: 1, images: 10}]
"""
PROFILE = "executor: ray\ngpus_per_run: 0\ntracking: none\nparameters: {num_cpus: 1}\n"


class Cluster:
    """Answers as Ray's client does; `states` of the jobs that it took."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.states, self.asked = refuses, dict[str, str](), list[dict[str, Any]]()

    def submit_job(self, **asked: Any) -> None:
        if self.refuses:
            raise RuntimeError("Request failed with status code 500:\nno room\n")
        self.asked.append(asked)
        self.states[asked["submission_id"]] = "PENDING"

    def list_jobs(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(submission_id=name, status=SimpleNamespace(value=state))
            for name, state in self.states.items()
        ]


@pytest.fixture
def far(tmp_path: Path) -> tuple[str, str]:
    """A grid of three runs, and a profile."""
    (tmp_path / "far.yaml").write_text(GRID.replace("EPOCHS", "1"))
    (tmp_path / "ray.yaml").write_text(PROFILE)
    return str(tmp_path / "far.yaml"), str(tmp_path / "ray.yaml")


def test_a_launch_is_one_job_whose_tasks_are_known(
    far: tuple[str, str], store: Store, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are promised while the job lives, may be cancelled alone, and are free once it ended."""
    grid, profile = far
    cluster = Cluster()
    monkeypatch.setattr(ray, "_client", lambda: cluster)

    def states() -> list[str]:
        return [run["state"] for run in json.loads(call("status", grid, "--json")[1])["runs"]]

    code, out, err = call("launch", grid, "--profile", profile)
    assert code == 0 and "3 runs submitted: 3 tasks" in out, err
    (asked,) = cluster.asked
    name, logs = asked["submission_id"], store.sweep("far").logs
    assert asked["entrypoint"].endswith(f"""{name} 3 '{{"num_gpus": 0, "num_cpus": 1}}'""")
    assert str(logs) in asked["entrypoint"]
    assert "/code/" in asked["runtime_env"]["env_vars"]["PYTHONPATH"], "what was frozen"
    assert states() == ["pending"] * 3
    call("cancel", grid, "--only", "seed=1")
    assert [path.name for path in logs.glob("*.end")] == [f"{name}_1.end"]
    cluster.states[name] = "FAILED"
    assert sorted(states()) == ["cancelled", "new", "new"]
    code, out, err = call("retry", grid, "--profile", profile)
    assert code == 0 and "1 run submitted: 1 task" in out, err


def test_what_cannot_be_submitted_is_one_line(
    far: tuple[str, str], store: Store, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, profile = far
    monkeypatch.setattr(ray, "_client", lambda: Cluster(refuses=True))
    code, _, err = call("launch", grid, "--profile", profile)
    assert code == 1 and "Ray refused the job: Request failed with status code 500: no room" in err
    assert not read_jsonl(store.sweep("far").submissions)
    Path(profile).write_text(PROFILE.replace("num_cpus", "num_cpu"))
    code, _, err = call("launch", grid, "--profile", profile)
    assert code == 2 and "parameters: num_cpu: unknown key, did you mean 'num_cpus'?" in err
    code, _, err = call("launch", grid, "--profile", profile, "--max-parallel", "2")
    assert code == 2 and "--max-parallel: does not apply to executor ray" in err


def test_a_cluster_out_of_reach_keeps_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers, but knows nothing of the job, was started since."""

    def nothing() -> None:
        raise ClusterError("executor ray: no route")

    item = Pending("epsweep-x-1_0", 0, "epsweep-x-1", executor="ray")
    monkeypatch.setattr(ray, "_client", nothing)
    (told,) = backends.states({0: item}).values()
    assert told.live and told.state and "no route" in told.state.reason
    monkeypatch.setattr(ray, "_client", Cluster)
    (told,) = backends.states({0: item}).values()
    assert told.state and told.state.state == "FAILED", "a launch takes up its runs again"


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a cluster of one node with two CPUs, which ends with the test."""
    pytest.importorskip("ray")
    place = Path(tmp_path_factory.getbasetemp().parent.anchor, "tmp", f"ray{os.getpid()}")
    ports = []
    for _ in range(2):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--num-cpus=2", "--disable-usage-stats", f"--temp-dir={place}"]
    command += [f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    yield {"RAY_ADDRESS": f"http://127.0.0.1:{ports[1]}"}
    node.terminate()
    node.wait()
    shutil.rmtree(place, ignore_errors=True)


def processes(*words: str) -> dict[int, int]:
    """The processes whose command line has these words: pid -> pid of the parent."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text().split("\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # over
            continue
        if all(word in line for word in words):
            found[int(folder.name)] = int(parent)
    return found


def numbers(store: Store, run: str) -> list[Any]:
    """What a run measured, without timings."""
    folder = store.run(run)
    timed = {"seconds", "images_per_s"}
    rows = [{k: v for k, v in row.items() if k not in timed} for row in read_jsonl(folder.metrics)]
    evals = [read_json(path) or {} for path in sorted(folder.path.glob("evals/*.json"))]
    return [*rows, *(found["rows"] for found in evals)]


@pytest.mark.slow
def test_a_storm_on_a_real_cluster(
    tmp_path: Path, call: Call, head: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's process is killed, and the worker of Ray that watches over another: both go on from
    their last epoch, none is done twice, and the numbers are those of a calm execution."""
    (tmp_path / "far.yaml").write_text(GRID.replace("EPOCHS", "6"))
    (tmp_path / "ray.yaml").write_text(PROFILE)
    grid, storm, calm = str(tmp_path / "far.yaml"), tmp_path / "storm", tmp_path / "calm"
    for name, value in head.items():
        monkeypatch.setenv(name, value)

    def launched() -> bool:
        profile = str(tmp_path / "ray.yaml")
        code, _, err = call("launch", grid, "--profile", profile, "--root", str(storm))
        assert code == 0 or "executor ray: " in err, err
        return code == 0

    until(launched)  # the cluster takes its time to start
    store, runs = Store(storm), [run.id for run in load_grid(grid).runs]

    def trained(run: str) -> int:
        return len(read_jsonl(store.run(run).metrics))

    def claimed(run: str) -> int:
        return len(read_jsonl(store.run(run).attempts))

    def started(job: str) -> dict[int, int]:
        return processes(ray.__name__, str(store.sweep("far").logs), job)

    for number, begun in enumerate((trained, claimed)):
        until(lambda begun=begun, number=number: begun(runs[number]))
        for process, worker in started(str(number)).items():
            os.kill(worker if number else process, signal.SIGKILL)

    def outcomes() -> list[list[str | None]]:
        return [[row["outcome"] for row in read_jsonl(store.run(run).attempts)] for run in runs]

    until(lambda: all("done" in ends for ends in outcomes()))
    assert all(ends.count("done") == 1 and ends[-1] == "done" for ends in outcomes()), outcomes()
    assert any(len(ends) > 1 for ends in outcomes()), "nothing was killed in time"
    call("launch", grid, "--profile", "debug", "--root", str(calm), "--tracking", "none")
    for run in runs:
        assert numbers(store, run) == numbers(Store(calm), run)

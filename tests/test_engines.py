"""The recipes for engines in examples/engines: what can be checked of them without the engines."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "engines"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
DIRECTIVES = {"gridengine": "#$ ", "pbs": "#PBS ", "lsf": "#BSUB ", "oar": "#OAR ", "ssh": ""}


def parsed(command: str) -> dict[str, Any]:
    """The parameters of a `sweep work ...`, as the command line understands them."""
    from typer.main import get_command

    from sweep.cli import app

    words = shlex.split(command, comments=True)
    place = next(n for n, word in enumerate(words) if Path(word).name == "sweep")
    assert words[place + 1] == "work"
    verb: Any = get_command(app).commands["work"]  # type: ignore[attr-defined]
    return dict(verb.make_context("work", [*words[place + 2 :]]).params)


def test_the_page_names_every_recipe() -> None:
    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    named = set(re.findall(r"examples/engines/([\w.]+)\)", page))
    assert named == {path.name for path in FOLDER.iterdir() if path.is_file()}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_batch_script_is_one(script: Path) -> None:
    """Its shell accepts it, it says what its engine reads, and it ends in a worker."""
    text = script.read_text("utf-8")
    assert os.access(script, os.X_OK) and text.startswith("#!/bin/bash\n")
    told = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert text.count(DIRECTIVES[script.stem]) >= 3 or script.stem == "ssh"
    if script.stem != "ssh":
        (line,) = re.findall(r"^(?:exec )?(sweep work .*?)(?: &)?$", text, re.M)
        assert parsed(line)["idle"] == 300


def test_oar_submits_a_worker_that_was_stopped_again(tmp_path: Path) -> None:
    """OAR does so with jobs that end with 99, and passes on no environment, only arguments."""
    (tmp_path / "sweep").write_text(STOPPED)
    (tmp_path / "sweep").chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(FOLDER / "oar.sh"), "a grid.yaml", "the store"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout and job.stdout.readline() == "the store: work a grid.yaml --idle 300\n"
        job.terminate()
        assert job.stdout.read() == "saved\n" and job.wait() == 99
    for code in (0, 1):
        (tmp_path / "sweep").write_text(f"#!/bin/sh\nexit {code}\n")
        assert subprocess.run(command, env=environment, check=False).returncode == code


def test_the_kubernetes_manifest_is_a_job_whose_workers_parse() -> None:
    """Against the schema of Kubernetes if the validator is installed."""
    manifest = yaml.safe_load((FOLDER / "kueue.yaml").read_text("utf-8"))
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert parsed(shlex.join(container["command"]))["grid"] == "/sweeps/my_question.yaml"
    assert manifest["spec"]["completions"] == manifest["spec"]["parallelism"]
    mounts = {item["name"] for item in container["volumeMounts"]}
    assert mounts == {item["name"] for item in manifest["spec"]["template"]["spec"]["volumes"]}
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(manifest, validator.latest_version(), strict=True)


def test_the_skypilot_task_runs_a_worker() -> None:
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text("utf-8"))
    assert set(task) == {"name", "workdir", "resources", "envs", "setup", "run"}
    assert parsed(task["run"])["idle"] == 300
    sky = pytest.importorskip("sky")
    sky.Task.from_yaml_config(task)


STOPPED = """#!/bin/bash
# Stands in for a worker that saves its run when it is stopped.
trap 'echo saved; exit 143' TERM
echo "$EPSWEEP_ROOT: $*"
while :; do sleep 0.1; done
"""
WORKER = """#!/bin/sh
echo "$EPSWEEP_ROOT" "$@"
while [ ! -e "$END" ]; do sleep 0.05; done
"""
SSH = """#!/bin/bash
# Stands in for ssh on a machine without its server: HOST COMMAND, here.
shift
exec bash -c "$*"
"""


def test_ssh_starts_a_worker_on_every_host(tmp_path: Path) -> None:
    """With a stand-in for ssh: the quoting is what can go wrong, and a worker that keeps the output
    of ssh open, which then would not return before the worker ends."""
    tools, root = tmp_path / "tools", tmp_path / "the store"
    tools.mkdir()
    for name, text in (("ssh", SSH), ("sweep", WORKER)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "a grid.yaml").write_text("name: a\n")
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "EPSWEEP_ROOT": str(root)}
    environment["END"] = str(tmp_path / "end")
    command = [str(FOLDER / "ssh.sh"), str(tmp_path / "a grid.yaml"), "one", "two"]
    try:
        subprocess.run(command, env=environment, check=True, timeout=60, stdout=subprocess.PIPE)
    finally:
        (tmp_path / "end").touch()
    for host in ("one", "two"):
        log = root / "workers" / f"{host}.log"
        for _ in range(600):
            if log.is_file() and log.read_text():
                break
            subprocess.run(["sleep", "0.05"], check=True)
        assert log.read_text().split(" work ")[0] == str(root)
        assert f"{tmp_path / 'a grid.yaml'} --slots " in log.read_text()


@pytest.mark.slow
def test_ray_tasks_do_a_grid(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    grid = tmp_path / "small.yaml"
    grid.write_text(
        "name: small\n"
        "base: {backbone: test_vit, weights: random, dataset: fake, image_size: 16, epochs: 1}\n"
        "seeds: [0, 1]\n"
        "evals: [{epsilons: 0..1/255, steps: 1, images: 10}]\n"
    )
    command = [sys.executable, str(FOLDER / "ray_tasks.py"), str(grid), "--workers", "2"]
    told = subprocess.run(
        [*command, "--gpus", "0"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "2 workers ended, exit codes [0]" in told.stdout, told.stdout + told.stderr
    assert len([*(tmp_path / "outputs" / "runs").glob("*/result.json")]) == 2

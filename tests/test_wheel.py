"""What is installed: typed packages, and nothing that only tests need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "core", "epsweep", "slurm", "sweep")
USER = """
import epsweep
from analysis import load
from core.config import RunConfig

run = RunConfig.parse({"backbone": "swin", "dataset": "cars"})
reveal_type(run.epsilon_g)
load(5)
epsweep.flags(5)
"""
SETTINGS = """
[mypy]
ignore_missing_imports = True
[mypy-torch.*,torchvision.*,timm.*,matplotlib.*,numpy.*,optuna.*,pandas.*,scipy.*,wandb.*]
follow_imports = skip
"""
"""Only our types are looked at: those of other packages take mypy most of its time."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))
    return ZipFile(path)


def test_a_wheel_holds_the_packages_and_no_test_bed(wheel: ZipFile) -> None:
    names = wheel.namelist()
    assert {"epsweep/command.py", "sweep/grids/smoke.yaml", "slurm/cluster.py"} <= set(names)
    published = {f"analysis/published/guide/{name}.csv" for name in ("results", "backbones")}
    assert published <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert not [name for name in names if name.startswith(("slurm/testbed", "tests/"))]
    (metadata,) = (name for name in names if name.endswith("/METADATA"))
    needs = wheel.read(metadata).decode().splitlines()
    assert "Requires-Dist: torch>=2.6" in needs, "no upper bound keeps current releases out"


@pytest.mark.slow
def test_mypy_of_a_user_sees_our_types(wheel: ZipFile, tmp_path: Path) -> None:
    """In an environment of its own, whose only package beside those of this one is the wheel."""
    installed, script = tmp_path / "site", tmp_path / "mine.py"
    wheel.extractall(installed)
    script.write_text(USER)
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent"]
    settings = tmp_path / "mypy.ini"
    settings.write_text(SETTINGS)
    told = subprocess.run(
        [*command, "--config-file", str(settings), "mine.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert 'Revealed type is "core.config.strength.Strength"' in told, told
    assert 'Argument 1 to "flags" has incompatible type "int"' in told, told
    assert 'Argument 1 to "load" has incompatible type "int"' in told, told

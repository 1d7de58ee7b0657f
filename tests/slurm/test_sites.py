"""What differs between sites, on a real Slurm: folders, environments, wrappers round sbatch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_bed import inside, needs_slurm
from slurm_sweep import Sweep

from core.store.folders import Store
from slurm.testbed import Bed
from sweep.submit import array_checks, checks

pytestmark = needs_slurm
SEEN = (
    "import os, submitit, sweep.submit.bundle as b; e = os.environ; "
    "print(*map(e.get, ('SLURM_JOB_PARTITION', 'SLURM_CPUS_PER_TASK', 'SLURM_MEM_PER_NODE', "
    "'CUDA_VISIBLE_DEVICES', 'SUBMITIT_EXECUTOR', 'MINE', 'SITE')), "
    "'/code/' in b.__file__)"
)
"""What a job of a launch is given, told by one."""


BED = {"nodes": 1}


@pytest.fixture
def tiny(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    with inside(bed, monkeypatch):
        made = Sweep(tmp_path, bed)
        made.write_grid(seeds=2)
        yield made


@pytest.mark.parametrize(
    "more",
    [{}, {"export": "NONE"}, {"export": "SITE,HOME"}],
    ids=["everything", "nothing", "some"],
)
def test_a_job_gets_what_the_profile_says_wherever_it_comes_from(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """The probe of `doctor --node` is such a job: it is there where jobs will be."""
    monkeypatch.setattr(checks, "PROBE", SEEN)
    outer = {"SBATCH_PARTITION": "preemptible", "SBATCH_WAIT": "1", "SBATCH_GPUS": "4"}
    for name, value in {**outer, "SBATCH_TIMELIMIT": "1", "SITE": "given"}.items():
        monkeypatch.setenv(name, value)
    slurm = {"slurm_partition": None, "mem_gb": 1, "slurm_additional_parameters": more}
    tiny.write_profile(slurm, env={"MINE": "a b"})
    store = Store(tiny.folder / 'it\'s a #1 "folder"' / "ü")
    found = array_checks.of_node(tiny.profile, store)
    site = "None" if more.get("export") == "NONE" else "given"
    assert found.verdict == "ok", found.detail
    gpu = found.detail.split()[3]
    assert found.detail == f"preemptible 1 1024 {gpu} slurm a b {site} True"
    assert gpu in "0123"
    assert not [*store.root.iterdir()]


def test_a_wrapper_that_greets_does_not_hide_the_job(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, folder = shutil.which("sbatch"), tiny.folder / "wrapped"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/sh\necho "NOTE: this job 17 will cost 3 SBU"\nexec {real} "$@"\n'
    )
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    tiny.write_profile({"slurm_additional_parameters": {"hold": True}})
    tiny.launch()
    queued = sorted(tiny.bed.run("squeue", "-h", "-r", "-o", "%i").split())
    assert sorted(str(status.job) for status in tiny.look().statuses) == queued
    assert tiny.states() == {"pending": 2}

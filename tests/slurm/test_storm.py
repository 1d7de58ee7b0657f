"""The demo on a real Slurm, small, in a storm: daemons, nodes, jobs and processes die while it
runs, and its tables come out as if nothing had happened. benchmarks/storm.py has the storm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_bed import needs_slurm

pytestmark = [*needs_slurm, pytest.mark.slow]


def test_the_demo_in_a_storm(tmp_path: Path) -> None:
    root, log = Path(__file__).parents[2], tmp_path / "storm.txt"
    command = [sys.executable, "benchmarks/storm.py", "--small", "--out", str(log)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    story = done.stdout + done.stderr
    assert done.returncode == 0, story
    said = log.read_text()
    assert "runs of demo: 8 done\n" in said
    assert "runs held by two attempts at once: 0\n" in said
    assert "runs whose numbers differ from the calm execution: 0\n" in said
    assert "`sweep tables` prints the same: True\n" in said
    assert all(word in said for word in ("glyph", "n = 32", "mini_convnext", "mini_resnet"))
    line = said.partition("attempts at all runs: ")[2].partition("\n")[0]
    attempts = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", line)}
    assert attempts["done"] == 8 + 2
    # They did meet: one cancelled; killed, and without power; requeued twice, and preempted, of
    # which a busy machine may kill some before they have left word.
    assert attempts["cancelled"] == 1, story
    assert attempts["lost"] >= 2, story
    assert attempts["interrupted"] >= 1, story
    assert attempts["lost"] + attempts["interrupted"] >= 5, story

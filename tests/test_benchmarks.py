"""The benchmarks themselves run from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["benchmarks/engine.py", "--quick", "--no-peers", "--only", "attack", "robustness"],
        ["benchmarks/gpu.py", "--quick", "--minutes", "1"],
    ],
)
def test_a_benchmark_runs_from_end_to_end(command: list[str], tmp_path: Path) -> None:
    """What it measures on a busy machine proves nothing; that it gets there does."""
    root, page = Path(__file__).parents[1], tmp_path / "page.md"
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *command, "--out", str(page)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1) and not done.stderr.strip(), done.stderr
    text = page.read_text("utf-8")
    assert "## Gates" in text and "commit:" in text and "load average" in text
    assert ("MISS" in text) is (done.returncode == 1)


def test_the_gpu_script_says_what_is_missing(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho timm wandb\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(root / "benchmarks" / "gpu.sh")],
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "lacks: timm wandb (pip install them, or use --wheels FOLDER)"
    )

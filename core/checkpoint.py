"""All that a resumed training needs, in one file that is either whole or not there.

The newest checkpoint and the one before it are kept. A damaged file is noticed by the checksums
its zip container carries, and the previous one is used instead.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from core.rundir import RunDir, write_atomic

FORMAT = 1


def save(run: RunDir, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain data only) as the newest checkpoint. Raises OSError, and
    leaves the former checkpoint in place then."""
    draft = run.path / "checkpoint.new.pt"
    write_atomic(draft, lambda file: torch.save({"format": FORMAT, **state}, file))
    if run.checkpoint.exists():
        os.replace(run.checkpoint, run.previous_checkpoint)
    os.replace(draft, run.checkpoint)


def load(run: RunDir) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint (None where training has to start afresh), and a line for each
    one that had to be passed over."""
    remarks: list[str] = []
    for path in (run.checkpoint, run.previous_checkpoint):
        if not path.exists():
            continue
        problem = _damage(path)
        if problem is None:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if state["format"] == FORMAT:
                return state, remarks
            problem = f"format {state['format']}, expected {FORMAT}"
        remarks.append(f"{path.name} is unusable ({problem}); falling back to what came before it")
    return None, remarks


def _damage(path: Path) -> str | None:
    """What is wrong with the file, None where every checksum fits."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return str(error)
    return f"checksum of {broken}" if broken else None


def slim(run: RunDir, state: dict[str, Any]) -> None:
    """Replace the checkpoints of a finished training by the final weights alone (a third)."""
    save(run, {key: value for key, value in state.items() if key != "optimizer"})
    run.previous_checkpoint.unlink(missing_ok=True)

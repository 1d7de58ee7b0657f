"""All that a resumed training needs, in one file that is either whole or not there.

The newest checkpoint and the one before it are kept. A damaged file is noticed by the checksums
its zip container carries, and the previous one is used instead.
"""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from core.errors import first_line
from core.store.files import exists
from core.store.folders import RunDir

FORMAT = 1
IS_FOLDER = 0x10
"""Flag of a zip entry. torch writes none that has it, and of one that has it (a flipped bit) it
reads nothing: the tensor would be whatever was in memory."""


def save(run: RunDir, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain data only) as the newest checkpoint. Raises OSError, and
    NotOwnedError if another attempt has taken the run over; leaves the former checkpoint then."""

    def replace(file: IO[bytes]) -> None:
        write({"format": FORMAT, **state}, file)
        if exists(run.checkpoint):  # only now is there something to take its place
            run.copy(run.checkpoint, run.previous_checkpoint)

    run.write(run.checkpoint, replace)


def write(state: dict[str, Any], file: IO[bytes]) -> None:
    """torch.save. Raises OSError, and what a signal handler raises meanwhile."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # What interrupts it, such as a full disk or a job's time limit, torch hides behind
        # complaints about its position in the file.
        reason: BaseException | None = error
        while isinstance(reason, RuntimeError):
            reason = reason.__context__
        if reason:
            raise reason from None
        raise


def load(run: RunDir) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint (None where training has to start afresh), and a line for each
    one that had to be passed over. Raises OSError where a file cannot be read: it may be whole."""
    remarks: list[str] = []
    for path in (run.checkpoint, run.previous_checkpoint):
        if not exists(path):
            continue
        try:
            return _read(path), remarks
        except Exception as error:  # one flipped bit can raise any of a dozen types
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # EINVAL is what a damaged offset within the file leads to
            why = first_line(error)
            remarks.append(f"{path.name} is unusable ({why}); falling back to what came before it")
    return None, remarks


def _read(path: Path) -> dict[str, Any]:
    state = read(path)
    if state["format"] != FORMAT:
        raise ValueError(f"format {state['format']}, expected {FORMAT}")
    return state


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What torch.save has put there, every checksum compared (torch itself compares none).

    Raises whatever a damage makes fail.
    """
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        folders = [item.filename for item in archive.infolist() if item.external_attr & IS_FOLDER]
    if broken or folders:
        raise ValueError(f"checksum of {broken}" if broken else f"{folders[0]} is no file")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def slim(run: RunDir, state: dict[str, Any]) -> None:
    """Replace the checkpoints of a finished training by its final weights alone (a third): the
    averaged ones if there are any."""
    kept = {key: value for key, value in state.items() if key not in ("optimizer", "average")}
    kept["model"] = state.get("average", state["model"])
    save(run, kept)
    run.remove(run.previous_checkpoint)

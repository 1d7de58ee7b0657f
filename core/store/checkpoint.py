"""Everything that a resumed training needs, in one file that is replaced atomically.

The newest checkpoint and the one before it are kept. Damage is detected by the checksums in the
file's zip container, and then the previous checkpoint is used.
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
"""Flag that marks a zip entry as a folder. torch never sets it; if a flipped bit does, torch reads
nothing for the entry, and the tensor would be uninitialised memory."""


def save(run: RunDir, state: dict[str, Any]) -> None:
    """Write `state` (only tensors and plain data) as the newest checkpoint. Raises OSError, or
    NotOwnedError if another attempt has taken the run over; the former checkpoint then remains."""

    def replace(file: IO[bytes]) -> None:
        write({"format": FORMAT, **state}, file)
        if exists(run.checkpoint):  # only now that its successor has been written
            run.copy(run.checkpoint, run.previous_checkpoint)

    run.write(run.checkpoint, replace)


def write(state: dict[str, Any], file: IO[bytes]) -> None:
    """torch.save. Raises the original OSError, or what a signal handler raises meanwhile."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # When a full disk or a signal interrupts torch, it raises RuntimeErrors about its position
        # in the file instead; the cause is in their context.
        reason: BaseException | None = error
        while isinstance(reason, RuntimeError):
            reason = reason.__context__
        if reason:
            raise reason from None
        raise


def load(run: RunDir) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest undamaged checkpoint (None if there is none), and a line for each damaged one.
    Raises OSError if a file cannot be read, since it may be undamaged."""
    remarks: list[str] = []
    for path in (run.checkpoint, run.previous_checkpoint):
        if not exists(path):
            continue
        try:
            return _read(path), remarks
        except Exception as error:  # one flipped bit can raise any of a dozen types
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # EINVAL, however, results from a damaged offset in the file
            why = first_line(error)
            remarks.append(f"{path.name} is damaged ({why}); using the state before it")
    return None, remarks


def _read(path: Path) -> dict[str, Any]:
    state = read(path)
    if state["format"] != FORMAT:
        raise ValueError(f"format {state['format']}, expected {FORMAT}")
    return state


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a file of torch.save, after comparing every checksum, which torch does not.

    Raises ValueError if one differs, and anything that other damage causes.
    """
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        folders = [item.filename for item in archive.infolist() if item.external_attr & IS_FOLDER]
    if broken or folders:
        raise ValueError(f"checksum of {broken}" if broken else f"{folders[0]} is not a file")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def slim(run: RunDir, state: dict[str, Any]) -> None:
    """Replace the checkpoints of a finished training by its final weights, averaged ones if there
    are any, without the optimiser's state; this takes a third of the space."""
    kept = {key: value for key, value in state.items() if key not in ("optimizer", "average")}
    kept["model"] = state.get("average", state["model"])
    save(run, kept)
    run.remove(run.previous_checkpoint)

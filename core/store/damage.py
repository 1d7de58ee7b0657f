"""Damaged files of a run: found without touching anything, and moved out of the way by its owner.

One damaged file concerns one run. A reader of many runs goes on with the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from core.errors import DamagedError, counted
from core.store import shapes
from core.store.files import exists, present
from core.store.folders import RunDir
from core.store.holder import Holder, find_holder
from core.store.json_files import read_json, read_jsonl


def find(
    run: RunDir,
    evals: Iterable[str] = (),
    seen: dict[Path, Any] | None = None,
    current: Holder | None = None,
) -> list[DamagedError]:
    """Every damaged file of a run, [] if all can be read. evals: ids of evaluations to look at,
    besides those its result names. seen: takes what whole files hold, so that a reader need not
    read them again. current: the newest claim, if it was read. The checkpoint is not read: training
    does that itself."""
    found: list[DamagedError] = []

    def tried(read: Callable[..., Any], path: Path, *what: Any) -> Any:
        try:
            value = read(path, *what)
        except DamagedError as error:
            found.append(error)
            return None
        if seen is not None:
            seen.setdefault(path, value)
        return value

    result = tried(read_json, run.result, shapes.Result)
    names = dict.fromkeys([*evals, *(result["evals"] if result else ())])
    for name in names:
        tried(_evaluation, run.eval_json(name), run.eval_flags(name))
    tried(read_json, run.env, shapes.Env)
    rows = tried(read_jsonl, run.metrics, shapes.Metrics)
    if result and rows is not None and exists(run.metrics):
        tried(_every_epoch, run.metrics, len(rows), result.get("epochs", len(rows)))
    tried(read_jsonl, run.attempts, shapes.Attempt)
    tried(read_json, run.repair, shapes.Repair)
    current = current or find_holder(run)
    if current and current.damage:
        found.append(current.damage)
    return found


def _evaluation(path: Path, flags_file: Path) -> dict[str, Any] | None:
    record = read_json(path, shapes.Evaluation)
    if record is None:
        return None
    content = present(flags_file.read_bytes)
    if content is not None and zlib.crc32(content) == record.get("flags_crc32"):
        return record  # as written: 0.05 ms instead of 3 ms for looking into it
    from core.store.flags import (
        read_flags,  # imports numpy, which a run without evaluations never needs
    )

    flags = read_flags(flags_file)
    if flags and len(flags["index"]) != record["n"]:
        got = len(flags["index"])
        raise DamagedError(flags_file, f"expected {record['n']} images, got {got}")
    return record


def _every_epoch(path: Path, rows: int, epochs: int) -> None:
    if rows != epochs:
        raise DamagedError(path, f"{rows} of {counted(epochs, 'epoch')}")


def described(found: Sequence[DamagedError], run: RunDir) -> str:
    """The first damaged file and what is wrong with it, in one line."""
    first, *others = found
    more = f" (and {len(others)} more)" if others else ""
    return f"{first.path.relative_to(run.path)}: {first.reason}{more}"


def repair(run: RunDir, evals: Iterable[str] = ()) -> list[str]:
    """Set the damaged files of a run aside, so that its owner makes again what they held; returns
    a line for each. An evaluation goes as a whole, and the result before it: what a result names
    is always there."""
    found = find(run, evals)
    for error in found:
        if error.path.parent == run.evals:
            if run.result not in [other.path for other in found]:
                run.remove(run.result)
            run.set_aside(run.eval_json(error.path.stem))
            run.set_aside(run.eval_flags(error.path.stem))
        elif not error.path.name.startswith("claim-"):  # the next attempt has removed it
            run.set_aside(error.path)
    return [f"{error}; set aside" for error in found]

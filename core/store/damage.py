"""Damaged files of a run: anybody can find them; the run's owner moves them out of the way.

A damaged file affects one run only; a reader of many runs goes on with the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from core.errors import DamagedError, counted
from core.store import shapes
from core.store.files import exists, read
from core.store.folders import ATTEMPTS, ENV, METRICS, REPAIR, RESULT, RunDir, eval_names
from core.store.holder import Holder, find_holder
from core.store.json_files import read_json, read_jsonl


def find(
    run: RunDir,
    evals: Iterable[str] = (),
    seen: dict[str, Any] | None = None,
    current: Holder | None = None,
) -> list[DamagedError]:
    """The damaged files of a run, except checkpoints, which training checks. Changes nothing.

    evals: ids of evaluations to check besides those that the result names. seen: filled with the
    content of undamaged files by their names in the folder, so that the caller need not read them
    again. current: the newest claim, if the caller has read it."""
    found: list[DamagedError] = []
    folder = str(run.path)

    def tried(look: Callable[..., Any], name: str, *what: Any) -> Any:
        try:
            value = look(f"{folder}/{name}", *what)
        except DamagedError as error:
            found.append(error)
            return None
        if seen is not None:
            seen.setdefault(name, value)
        return value

    result = tried(read_json, RESULT, shapes.Result)
    for asked in dict.fromkeys([*evals, *(result["evals"] if result else ())]):
        record, flags = eval_names(asked)
        tried(_evaluation, record, f"{folder}/{flags}")
    tried(read_json, ENV, shapes.Env)
    rows = tried(read_jsonl, METRICS, shapes.MetricsRow)
    if result and rows is not None and (rows or exists(f"{folder}/{METRICS}")):
        tried(_every_epoch, METRICS, len(rows), result.get("epochs", len(rows)))
    tried(read_jsonl, ATTEMPTS, shapes.Attempt)
    tried(read_json, REPAIR, shapes.Repair)
    current = current or find_holder(run)
    if current and current.damage:
        found.append(current.damage)
    return found


def _evaluation(path: str, flags_file: str) -> dict[str, Any] | None:
    record = read_json(path, shapes.Evaluation)
    if record is None:
        return None
    content = read(flags_file)
    if content is not None and zlib.crc32(content) == record.get("flags_crc32"):
        return record  # flags unchanged since written: 0.05 ms instead of 3 ms to parse them
    from core.store.flags import read_flags  # imports numpy, which is rarely needed

    flags = read_flags(flags_file)
    if flags and len(flags["index"]) != record["n"]:
        got = len(flags["index"])
        raise DamagedError(Path(flags_file), f"expected {record['n']} images, got {got}")
    return record


def _every_epoch(path: str, rows: int, epochs: int) -> None:
    if rows != epochs:
        raise DamagedError(Path(path), f"{rows} of {counted(epochs, 'epoch')}")


def described(found: Sequence[DamagedError], run: RunDir) -> str:
    """One line: the first damaged file with its problem, and how many more there are."""
    first, *others = found
    more = f" (and {len(others)} more)" if others else ""
    return f"{first.path.relative_to(run.path)}: {first.reason}{more}"


def repair(run: RunDir, evals: Iterable[str] = ()) -> list[str]:
    """Set the damaged files of a run aside, so that its owner remakes their content; returns a line
    for each. If one file of an evaluation is damaged, both are set aside, after the result is
    deleted: a result must never name a missing evaluation."""
    found = find(run, evals)
    for error in found:
        if error.path.parent == run.evals:
            if run.result not in [other.path for other in found]:
                run.remove(run.result)
            run.set_aside(run.eval_json(error.path.stem))
            run.set_aside(run.eval_flags(error.path.stem))
        elif not error.path.name.startswith("claim-"):  # each new attempt removes old claims
            run.set_aside(error.path)
    return [f"{error}; set aside" for error in found]

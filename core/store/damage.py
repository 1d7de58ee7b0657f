"""Damaged files of a run: anybody can find them; the run's owner moves them out of the way.

A damaged file affects one run only; a reader of many runs goes on with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from core.errors import DamagedError, counted
from core.store import shapes
from core.store.files import read
from core.store.folders import ATTEMPTS, ENV, METRICS, REPAIR, RESULT, RunDir, eval_names
from core.store.holder import Holder, find_holder
from core.store.json_files import parse_json, parse_jsonl


def find(
    run: RunDir,
    evals: Iterable[str] = (),
    seen: dict[str, Any] | None = None,
    current: Holder | None = None,
    names: Container[str] | None = None,
) -> list[DamagedError]:
    """The damaged files of a run, except checkpoints, which training checks. Changes nothing.

    evals: ids of evaluations to check besides those that the result names. seen: filled with what
    each file holds, by its name in the folder, so that the caller need not read it again: parsed,
    or as bytes if a checksum in the result shows it to be unchanged; None if missing. current: the
    newest claim, if the caller has read it. names: those in the folder, if the caller has listed
    it; other files are not looked for."""
    found: list[DamagedError] = []
    folder = str(run.path)
    held = {} if seen is None else seen

    def content(name: str) -> Any:
        if name not in held:
            missing = names is not None and name.partition("/")[0] not in names
            held[name] = None if missing else read(f"{folder}/{name}")
        return held[name]

    def tried(parse: Callable[..., Any], name: str, *what: Any) -> Any:
        text = content(name)
        try:
            held[name] = None if text is None else parse(text, f"{folder}/{name}", *what)
        except DamagedError as error:
            found.append(error)
            return None
        return held[name]

    result = tried(parse_json, RESULT, shapes.Result)
    sums = (result or {}).get("crc32", {})

    def kept(name: str) -> bool:
        """Whether a file is as it was when the result was written."""
        return name in sums and crc32(content(name) or b"") == sums[name]

    for asked in dict.fromkeys([*evals, *(result["evals"] if result else ())]):
        record, flags = eval_names(asked)
        if not (kept(record) and checksum(f"{folder}/{flags}") == sums.get(flags, -1)):
            tried(_evaluation, record, f"{folder}/{flags}")
    if not kept(ENV):
        tried(parse_json, ENV, shapes.Env)
    if not kept(METRICS):  # 0.02 ms instead of 0.6 ms to check 50 epochs
        tried(_epochs, METRICS, (result or {}).get("epochs"))
    tried(parse_jsonl, ATTEMPTS, shapes.Attempt)
    tried(parse_json, REPAIR, shapes.Repair)
    current = current or find_holder(run)
    if current and current.damage:
        found.append(current.damage)
    return found


def checksums(run: RunDir, evals: Iterable[str]) -> dict[str, int]:
    """Name in the folder -> CRC-32, for the files that are final once the result is written, which
    stores these. A reader need not parse a file that still has its checksum."""
    names = [ENV, METRICS, *(name for asked in evals for name in eval_names(asked))]
    found = {name: checksum(f"{run.path}/{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def checksum(path: str) -> int | None:
    """The CRC-32 of a file, None if it does not exist."""
    content = read(path)
    return None if content is None else crc32(content)


def _evaluation(text: bytes, path: str, flags_file: str) -> dict[str, Any]:
    record = parse_json(text, path, shapes.Evaluation)
    if checksum(flags_file) == record.get("flags_crc32", -1):
        return record  # flags unchanged since written: 0.05 ms instead of 3 ms to parse them
    from core.store.flags import read_flags  # imports numpy, which is rarely needed

    flags = read_flags(flags_file)
    if flags and len(flags["index"]) != record["n"]:
        got = len(flags["index"])
        raise DamagedError(Path(flags_file), f"expected {record['n']} images, got {got}")
    return record


def _epochs(text: bytes, path: str, epochs: int | None) -> list[dict[str, Any]]:
    rows = parse_jsonl(text, path, shapes.MetricsRow)
    if epochs is not None and len(rows) != epochs:
        raise DamagedError(Path(path), f"{len(rows)} of {counted(epochs, 'epoch')}")
    return rows


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

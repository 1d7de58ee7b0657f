"""One damaged file concerns one run: it is named, the others go on, and `retry` makes it whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from core.options import Options
from core.store import damage, json_files
from core.store.folders import ENV, METRICS, RunDir, Store, eval_names
from sweep.grid import Grid, load_grid
from sweep.worker import attempt

Call = Callable[..., tuple[int, str, str]]

GRID = """
name: chaos
base: {backbone: test_vit, weights: random, dataset: fake, image_size: 16, epochs: 1, batch: 50}
grid: {schedule: [standard, fix]}
evals: [{epsilons: 0..4/255, steps: 1, images: 6}]
"""
SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but the end": lambda content: content[:-3],
    "list": lambda content: b"[]\n",
    "null": lambda content: b"null\n",
    "object": lambda content: b"{}\n",
    "junk": lambda content: b"\x00\xff\xfe{\n\x80" * 9,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """(grid file, store) of two runs that are really done."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "chaos.yaml"
    path.write_text(GRID)
    loaded, store = load_grid(path), Store(folder / "outputs")
    for run in loaded.runs:
        options = Options(tracking="none")
        assert attempt.make(run.config, run.evals, store, options) == "done"
    yield path, store.root


@pytest.fixture
def chaos(finished: tuple[Path, Path], store: Store) -> Grid:
    """The grid, its finished runs in a store that may be spoilt."""
    path, root = finished
    shutil.copytree(root, store.root)
    return load_grid(path)


def files_of(run: RunDir) -> dict[str, Path]:
    """What a finished run keeps, by a name that is alike for all runs."""
    found = {path.name: path for path in run.path.iterdir() if path.is_file()}
    return found | {f"eval{path.suffix}": path for path in run.evals.iterdir()}


NAMES = [
    *("result.json", "env.json", "metrics.jsonl", "attempts.jsonl", "claim-0001.json"),
    *("eval.json", "eval.npz", "config.yaml", "log.txt", "checkpoint.pt"),
]
HARMLESS = ("config.yaml", "checkpoint.pt", "log.txt")
"""Written anew or read by training alone: the run's numbers do not depend on them."""


def states(call: Call, grid: Grid) -> dict[str, dict[str, Any]]:
    code, out, err = call("status", str(grid.path), "--json")
    assert (code, err) == (0, ""), err
    return {run["id"]: run for run in json.loads(out)["runs"]}


def test_every_kind_of_file_is_spoilt(chaos: Grid, store: Store) -> None:
    assert set(NAMES) == set(files_of(store.run(chaos.runs[0].id)))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_concerns_its_run_alone(
    chaos: Grid, store: Store, call: Call, name: str
) -> None:
    first, second = (store.run(run.id) for run in chaos.runs)
    file = files_of(first)[name]
    whole = file.read_bytes()
    for how, spoil in SPOILERS.items():
        file.write_bytes(spoil(whole))
        seen = states(call, chaos)
        assert seen[second.id]["state"] == "done"
        code, out, err = call("tables", str(chaos.path), "--format", "csv")
        assert "Traceback" not in out + err
        torn = name == "attempts.jsonl" and how in ("empty", "one byte", "half", "all but the end")
        if name in HARMLESS or torn:
            assert seen[first.id]["state"] == "done", how
            assert code == 0, (how, out, err)
        elif (name, how) == ("claim-0001.json", "empty"):  # one that is just being written
            assert seen[first.id]["state"] == "running"
        else:
            assert seen[first.id]["state"] == "damaged", how
            assert seen[first.id]["reason"].startswith(str(file.relative_to(first.path)) + ": ")
            assert code == 3, (how, out, err)


def test_what_is_unchanged_since_the_result_is_not_parsed(chaos: Grid, store: Store) -> None:
    run = store.run(chaos.runs[0].id)
    result = json.loads(run.result.read_text())
    (asked,) = result["evals"]
    assert set(result["crc32"]) == {ENV, METRICS, *eval_names(asked)}

    def parsed() -> set[str]:
        parse = mock.Mock(wraps=json_files.parse_json)
        parse_rows = mock.Mock(wraps=json_files.parse_jsonl)
        with mock.patch.multiple(damage, parse_json=parse, parse_jsonl=parse_rows):
            assert damage.find(run) == []
        paths = {Path(made.args[1]) for made in (*parse.mock_calls, *parse_rows.mock_calls)}
        names = {str(path.relative_to(run.path)) for path in paths}
        return names & {ENV, METRICS, *eval_names(asked)}

    assert parsed() == set()
    run.metrics.write_text(run.metrics.read_text() + "\n")
    assert parsed() == {METRICS}
    del result["crc32"]  # as older versions wrote it
    run.result.write_text(json.dumps(result))
    assert parsed() == {ENV, METRICS, eval_names(asked)[0]}


@pytest.mark.slow
def test_launch_goes_on_with_the_others_and_says_what_to_do(
    chaos: Grid, store: Store, call: Call
) -> None:
    first, second = (store.run(run.id) for run in chaos.runs)
    first.result.write_text("{")
    shutil.rmtree(second.path)
    code, out, err = call("launch", str(chaos.path), "--profile", "debug", "--tracking", "none")
    assert (code, err) == (3, "")
    assert "1 damaged" in out
    assert [run["state"] for run in states(call, chaos).values()] == ["damaged", "done"]
    for verb in (("plan",), ("launch", "--dry-run"), ("report",), ("figures",), ("logs",)):
        what = first.id if verb[0] == "logs" else str(chaos.path)
        code, out, err = call(verb[0], what, *verb[1:])
        assert "Traceback" not in out + err and code in (0, 3), (verb, err)
    code, out, _ = call("launch", str(chaos.path), "--profile", "debug")
    assert code == 3 and "sweep retry" in out
    second.log.write_bytes(b"\xff\xfe log\n")
    code, out, err = call("logs", second.id)
    assert (code, err) == (0, "") and out.endswith(" log\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in HARMLESS])
def test_retry_makes_a_damaged_run_whole(chaos: Grid, store: Store, call: Call, name: str) -> None:
    """It goes on from the checkpoint, and makes again what was damaged, with the same numbers."""
    first, second = (store.run(run.id) for run in chaos.runs)
    file = files_of(first)[name]
    before = {path: path.read_bytes() for run in (first, second) for path in files_of(run).values()}
    file.write_bytes(b"[]\n")
    code, out, err = call("retry", str(chaos.path), "--profile", "debug", "--tracking", "none")
    assert (code, err) == (0, ""), out
    assert {run["state"] for run in states(call, chaos).values()} == {"done"}
    timed = ("result.json", "env.json", "attempts.jsonl", "log.txt", "checkpoint.pt", "eval.json")
    for path, content in before.items():
        changed = path.parent in (first.path, first.evals) and (
            path.name in timed or path.parent == first.evals or path.name.startswith("claim")
        )
        assert changed or path.read_bytes() == content, path
    for kind in ("eval.json", "result.json"):
        rows = [json.loads(text) for text in (before[files_of(first)[kind]],)]
        again = json.loads(files_of(first)[kind].read_bytes())
        assert all(again.get(key) == rows[0].get(key) for key in ("rows", "evals", "delay"))
    trained = [line for line in first.log.read_text().splitlines() if "epoch 1/1" in line]
    assert len(trained) <= 1, "trained anew"
    if not name.startswith("claim"):
        assert file.with_name(f"{file.name}.damaged").read_bytes() == b"[]\n"


SHARED = ("manifest.jsonl", "submissions.jsonl", "grid.yaml", "submission-*.jsonl")


@pytest.mark.parametrize("pattern", SHARED)
def test_a_damaged_file_of_the_sweep_stops_nothing(
    chaos: Grid, store: Store, call: Call, pattern: str
) -> None:
    shutil.rmtree(store.run(chaos.runs[1].id).path)
    arguments = (str(chaos.path), "--profile", "debug", "--tracking", "none")
    assert call("launch", *arguments)[0] == 0
    (file,) = (
        store.sweep("chaos").path.glob(pattern)
        if "*" in pattern
        else [store.sweep("chaos").path / pattern]
    )
    if pattern == "submissions.jsonl":
        row = {"executor": "local", "manifest": "x.jsonl", "processes": []}
        file.write_text(json.dumps(row) + "\n")
    whole = file.read_bytes()
    for spoil in SPOILERS.values():
        file.write_bytes(spoil(whole))
        for verb in ("status", "plan", "tables", "launch"):
            code, out, err = call(verb, str(chaos.path))
            assert code == 0 and "Traceback" not in out + err, (verb, out, err)
        from analysis import load

        assert len(load(store.root))

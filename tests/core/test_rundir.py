"""Atomic writes (full disk, failing writer, killed process, concurrent reader) and paths."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import killable
import pytest
import torch
from forks import Forks
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from core.errors import DamagedError
from core.store import checkpoint
from core.store.files import copy_atomic, exists, present, remove, write_atomic, write_text
from core.store.folders import RunDir, Store
from core.store.json_files import (
    fields,
    read_json,
    read_jsonl,
    salvage,
    write_json,
    write_jsonl,
)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    write_json(path, {"b": [1, "4/255", None]})
    assert read_json(path) == {"b": [1, "4/255", None]}
    assert os.listdir(path.parent) == ["x.json"]


class StopError(Exception):
    pass


@pytest.mark.parametrize("error", [StopError, OSError, KeyboardInterrupt])
def test_a_failing_writer_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half of the new ")
        file.flush()
        raise error

    with pytest.raises(error):
        write_atomic(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_checkpoint(path: Path, content: str) -> None:
    # Weights that do not compress, half of the size of the text.
    weights = torch.randint(255, (len(content) // 2,), dtype=torch.uint8)
    checkpoint.save(RunDir(path.parent), {"weights": weights})


WRITERS: list[tuple[str, Callable[[Path, str], None]]] = [
    ("x", write_text),
    ("x", lambda path, text: write_json(path, {"text": text})),
    ("x", lambda path, text: write_jsonl(path, [{"text": text}] * 3)),
    ("checkpoint.pt", write_checkpoint),
]


def assert_kept(
    folder: Path, name: str, write: Callable[[Path, str], None], content: str
) -> OSError:
    """Writing `content` fails, and the file that was there before stays as it is."""
    before = (folder / name).read_bytes()
    with pytest.raises(OSError) as error:
        write(folder / name, content)
    assert (folder / name).read_bytes() == before
    assert os.listdir(folder) == [name], "a draft was left behind"
    return error.value


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_full_disk_leaves_the_old_file(
    small_disk: Path, name: str, write: Callable[[Path, str], None]
) -> None:
    write(small_disk / name, "old " * 1000)
    error = assert_kept(small_disk, name, write, "new " * 50_000)
    assert error.strerror == "No space left on device"
    write(small_disk / name, "new " * 2000)  # the room is free again


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_file_that_may_not_grow_leaves_the_old_one(
    tmp_path: Path, name: str, write: Callable[[Path, str], None]
) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    write(folder / name, "old " * 1000)
    with limited(20_000):
        assert_kept(folder, name, write, "new " * 50_000)


def test_a_read_only_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_text(tmp_path / "file" / "x", "text")


def test_a_reader_sees_old_or_new(tmp_path: Path) -> None:
    path, stop = tmp_path / "x", threading.Event()
    contents = ["a" * 50_000, "b" * 80_000]
    write_text(path, contents[0])
    seen: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        write_text(path, contents[turn % 2])
    stop.set()
    reader.join()
    assert seen == set(contents)


@pytest.mark.slow
def test_a_killed_writer_leaves_old_or_new(forks: Forks, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for share in (0.0, 0.3, 1.0):
        write_json(path, {"text": "old"})
        assert forks.run(killable.write_and_die, path, share) == -9
        assert read_json(path) == {"text": "old"}


def test_a_number_that_json_lacks_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "x", {"loss": 1.0})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "x", {"loss": bad})
        with pytest.raises(ValueError, match="JSON"):
            write_jsonl(tmp_path / "x", [{"loss": bad}])
    assert read_json(tmp_path / "x") == {"loss": 1.0}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Line breaks of every kind must not break a file of one row a line.
    | st.text()
    | st.sampled_from(["a\nb", "\u2028", "\x85", "\x1e", "\r"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
rows = st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=5)


@given(written=rows)
def test_rows_round_trip(tmp_path_factory: pytest.TempPathFactory, written: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_jsonl(path, written)
    assert read_jsonl(path) == written
    assert len(path.read_text().splitlines()) == len(written)


def test_what_is_missing_reads_as_nothing(tmp_path: Path) -> None:
    assert read_json(tmp_path / "x") is None and read_jsonl(tmp_path / "x") == []


def test_what_is_broken_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"a": ')
    with pytest.raises(DamagedError, match="not complete JSON"):
        read_json(path)
    for wrong in ("[]", "null", "3", '"x"'):
        path.write_text(wrong)
        with pytest.raises(DamagedError, match="expected an object"):
            read_json(path)
        with pytest.raises(DamagedError, match="expected an object"):
            read_jsonl(path)


def test_what_only_the_slower_parser_takes_is_read_too(tmp_path: Path) -> None:
    """Half a surrogate pair, as Python has for a byte that is no UTF-8 in a file's name."""
    path, row = tmp_path / "x", {"reason": "no file caf\udce9", "share": 0.1}
    path.write_text(json.dumps(row) + "\n")
    assert read_json(path) == row and read_jsonl(path) == [row]


def test_a_row_cut_off_while_it_was_written_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "x"
    whole = '{"a": 1}\n{"a": 2}'
    for length in range(len(whole) + 1):
        path.write_text(whole[:length])
        assert [row["a"] for row in read_jsonl(path)] == [1, 2][: whole[:length].count("}")]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(DamagedError):
        read_jsonl(path)
    assert salvage(path) == [{"a": 1}, None, {"a": 3}]


class Promised(TypedDict):
    id: str
    evals: list[str]
    after: int


def test_the_fields_of_rows_leave_out_damaged_rows(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    row = {"id": "a", "setting": "fix", "config": {"epochs": 5}, "evals": ["e"], "after": 0}
    texts = [json.dumps(row).encode(), json.dumps(row | {"evals": 5}).encode()]
    few = {"id": "a", "evals": ["e"], "after": 0}
    assert fields(texts[:1], path, Promised) == [few]
    first, second = fields(texts, path, Promised)
    assert first is not None and first | few == first and second is None
    assert fields([], path, Promised) == []


def test_config_is_written_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    run.write_config({"epochs": 2, "epsilon_g": "4/255"})
    os.utime(run.config, (0, 0))
    run.write_config({"epochs": 2, "epsilon_g": "4/255"})
    assert run.config.stat().st_mtime == 0, "an identical file was written again"
    run.write_config({"epochs": 3})
    assert run.config.read_text() == "epochs: 3\n"


def test_the_names_on_disk_are_fixed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run, sweep = store.run("vit-cars-0123456789abcdef"), store.sweep("demo")
    assert run.id == "vit-cars-0123456789abcdef"
    paths = [
        *(run.config, run.env, run.metrics, run.checkpoint, run.previous_checkpoint, run.result),
        *(run.attempts, run.log, run.tracking, run.eval_json("e"), run.eval_flags("e")),
        *(sweep.grid, sweep.manifest, sweep.submissions, sweep.logs, store.weights),
    ]
    assert [str(path.relative_to(tmp_path)).replace(run.id, "R") for path in paths] == [
        "runs/R/config.yaml",
        "runs/R/env.json",
        "runs/R/metrics.jsonl",
        "runs/R/checkpoint.pt",
        "runs/R/checkpoint.previous.pt",
        "runs/R/result.json",
        "runs/R/attempts.jsonl",
        "runs/R/log.txt",
        "runs/R/wandb",
        "runs/R/evals/e.json",
        "runs/R/evals/e.npz",
        "sweeps/demo/grid.yaml",
        "sweeps/demo/manifest.jsonl",
        "sweeps/demo/submissions.jsonl",
        "sweeps/demo/logs",
        "weights",
    ]


def test_the_store_is_the_argument_else_the_variable_else_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPSWEEP_ROOT", "elsewhere")
    assert Store.at("given").root == tmp_path / "given"
    assert Store.at().root == tmp_path / "elsewhere"
    monkeypatch.setenv("EPSWEEP_ROOT", "")
    assert Store.at().root == tmp_path / "outputs"
    monkeypatch.delenv("EPSWEEP_ROOT")
    assert Store.at().root == tmp_path / "outputs"
    assert Store.at().data == tmp_path / "outputs" / "data"
    monkeypatch.setenv("EPSWEEP_DATA", "shared")
    assert Store.at().data == tmp_path / "shared"


def test_what_is_stale_is_looked_up_again(tmp_path: Path) -> None:
    path, left = tmp_path / "x", [2]
    path.write_text("new")

    def look() -> str:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return path.read_text()

    assert present(look) == "new"
    left[0] = 1000
    assert present(look) is None, "it is gone"


def test_only_what_is_gone_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "none" / "x", tmp_path / "file" / "x"):
        assert present(path.read_bytes) is None and not exists(path)
        remove(path)
    with pytest.raises(IsADirectoryError):
        present(tmp_path.read_bytes)


def test_a_copy_on_a_disk_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(os, "link", link)
    copy_atomic(tmp_path / "a", tmp_path / "b", drafts=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "b").read_text() == "a"

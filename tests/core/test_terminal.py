"""Whatever the terminal, the names of files and the home folder: the answer is told, and exact."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import typer
from grid_text import parse
from rich.console import Console
from typer.core import TyperGroup

from core.config import ConfigError
from core.config.values import at_home
from core.store.folders import Store
from sweep.cli import app, from_home, lean, terminal
from sweep.grid.filters import select_runs

GRID = "name: g\nbase: {backbone: mini_resnet, weights: random, image_size: 32}\n"
PRETRAINED = "name: g\nbase: {backbone: swin}\n"
SYMBOLS = "\u2026\u2588\u2591\u2500\u2502\u256d\u2192\u00b1\u00e9\u03b5\u2265\u4e2d"


def sweep(*arguments: str, encoding: str = "utf-8", **environ: str) -> tuple[int, bytes, str]:
    """Exit code, standard output and standard error on a terminal of an encoding."""
    command = [sys.executable, "-m", "sweep.cli", *arguments]
    outer = os.environ | {"PYTHONIOENCODING": encoding} | environ
    done = subprocess.run(command, capture_output=True, env=outer)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
def test_every_text_can_be_printed(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding, write_through=True))
    terminal.fit_encoding()
    print(SYMBOLS, file=sys.stdout)
    print(SYMBOLS, file=sys.stderr)
    Console(markup=False, width=10).print(SYMBOLS * 3, overflow="ellipsis", no_wrap=True)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    printed = sys.stdout.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert len(printed.splitlines()) == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("verb", [("status", "smoke"), ("weights", "list"), ("plan", "--help")])
def test_verbs_answer_in_any_encoding(tmp_path: Path, verb: tuple[str, ...], encoding: str) -> None:
    code, out, err = sweep(*verb, encoding=encoding, TERM="dumb", NO_COLOR="1")
    assert (code, err) == (0, "")
    assert out.decode("ascii")


def test_bytes_of_a_file_name_pass_as_they_are() -> None:
    name = os.fsdecode(b"/nowhere/caf\xe9.yaml")
    code, _, _ = sweep("plan", name)
    done = subprocess.run([sys.executable, "-m", "sweep.cli", "plan", name], capture_output=True)
    assert code == done.returncode == 2
    assert b"/nowhere/caf\xe9.yaml: no such grid file" in done.stderr


def test_a_root_that_no_record_could_name_is_refused(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    code, out, err = sweep("status", "smoke", "--root", os.fsdecode(root))
    assert (code, out) == (2, b"")
    assert err.count("\n") == 1 and "is not UTF-8 text" in err
    assert not os.path.exists(root)


# Square brackets.


@pytest.mark.parametrize("name", ["[/x]", "[bold]x [red] :smile: [a-z]*"])
def test_brackets_in_paths_are_no_markup(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name.replace("/", "\u2215") if "/" not in name else tmp_path / "[" / "x]"
    folder.mkdir(parents=True)
    (folder / "g.yaml").write_text(GRID + "grid: {dataset: [fak]}\n")
    code, _, err = sweep("plan", str(folder / "g.yaml"))
    assert code == 2 and err.startswith(f"{folder}/g.yaml:3: ")
    code, out, err = sweep("doctor", "--root", str(folder))
    assert (code, err) == (0, "") and f"{folder}: " in out.decode()


def test_brackets_in_a_question_and_a_name_are_no_markup(tmp_path: Path) -> None:
    data = tmp_path / "[/b]" / "[red]"
    (tmp_path / "g.yaml").write_text(
        GRID + f"about: {{question: 'is [/x] [bold]?'}}\ngrid: {{dataset: ['{data}']}}\n"
    )
    code, out, err = sweep("plan", str(tmp_path / "g.yaml"))
    assert (code, err) == (0, "")
    assert "is [/x] [bold]?" in out.decode() and f"missing: {data}" in out.decode()


def helps(command: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """(verb, text) of everything in a help that has square brackets."""
    found = [(path, str(p.help)) for p in command.params if "[" in str(getattr(p, "help", ""))]  # type: ignore[attr-defined]
    for name, inner in getattr(command, "commands", {}).items():
        found += helps(inner, (*path, name))
    return found


def test_helps_keep_their_brackets(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    told = helps(typer.main.get_command(app))
    assert len(told) > 5
    for verb, text in told:
        _, shown, _ = call(*verb, "--help")
        assert re.sub(r"\s+", " ", text) in re.sub(r"\s+", " ", shown), verb


# The home folder.


@pytest.mark.parametrize("argument", ["~/x", "--root=~/x", "-p=~/x"])
def test_the_home_folder_of_an_argument(monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert from_home(argument) == argument.replace("~", "/home/me")


@pytest.mark.parametrize("argument", ["x~", "--only=dataset=~/x", "a=~/x", "--root=x/~"])
def test_other_tildes_stay(argument: str) -> None:
    assert from_home(argument) == argument


def test_the_home_folder_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.at("~/x").root == tmp_path / "x"
    monkeypatch.setenv("EPSWEEP_ROOT", "~/y")
    monkeypatch.setenv("EPSWEEP_DATA", "~/z")
    assert (Store.at().root, Store.at().data) == (tmp_path / "y", tmp_path / "z")


@pytest.mark.parametrize("variable", ["EPSWEEP_ROOT", "EPSWEEP_DATA", "HF_HOME"])
def test_a_user_whom_nobody_knows_is_one_line(tmp_path: Path, variable: str) -> None:
    with pytest.raises(ConfigError, match="no home folder of '~nosuchuser' is known"):
        at_home("~nosuchuser/x")
    (tmp_path / "g.yaml").write_text(PRETRAINED + "grid: {dataset: [cars]}\n")
    code, _, err = sweep("doctor", str(tmp_path / "g.yaml"), **{variable: "~nosuchuser/x"})
    assert code == 2 and err.count("\n") == 1 and "~nosuchuser" in err


# Commas.


def test_a_path_with_commas_can_be_named() -> None:
    paths = ["/d/co,mma x=1", "/d/co", "mma x=1", "/d/other"]
    runs = parse(GRID + f"grid: {{dataset: {paths[:1] + paths[3:]}}}\n").runs
    for text, wanted in [
        ("/d/co,mma x=1", {paths[0]}),
        ("/d/other,/d/co,mma x=1", {paths[0], paths[3]}),
        ("/d/co,mma x=1,/d/other", {paths[0], paths[3]}),
    ]:
        assert {run.config.dataset for run in select_runs(runs, [f"dataset={text}"])} == wanted
    with pytest.raises(ConfigError, match="--only dataset=/d/co: no run has this value"):
        select_runs(runs, ["dataset=/d/co"])


# Help.


def test_help_groups_the_verbs_and_tells_the_checks_apart(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, _ = call("-h")
    assert code == 0 and call("--help")[1] == shown
    places = [shown.index(f"\u2500 {name} \u2500") for name in ("Prepare", "Run", "Look", "Repair")]
    assert places == sorted(places) and "\u2500 Commands" not in shown
    assert "launch --dry-run" in shown.rpartition("Before a launch:")[2]
    assert call("plan", "-h")[0] == 0


def test_version(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("--version")
    assert code == 0 and out.startswith(f"epsweep {metadata.version('epsweep')}")


def test_completion_knows_the_verbs() -> None:
    words = {"_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "sweep st", "COMP_CWORD": "1"}
    assert sweep(**words)[:2] == (0, b"status\n")


def test_a_verb_alone_is_as_among_all() -> None:
    """Of a group like `data`, and of what is no verb, nothing is left out."""
    every = terminal.literal(app)
    assert isinstance(every, TyperGroup)
    for verb, whole in every.commands.items():
        alone = terminal.literal(lean(verb))
        assert isinstance(alone, TyperGroup)
        if isinstance(whole, TyperGroup):
            assert alone.commands.keys() == every.commands.keys()
            continue
        assert [*alone.commands] == [verb]
        told = [
            (one.help, [(each.name, each.opts, each.required) for each in one.params])
            for one in (alone.commands[verb], whole)
        ]
        assert told[0] == told[1]
    assert lean("plna") is lean("") is lean("--help") is app

"""Which code computed a result: known, or said to be unknown, but never wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from analysis.report import digest
from core.store import source


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed checkout that holds core/store/source.py, as far as the module knows."""
    folder = tmp_path / "checkout"
    (folder / "core" / "store").mkdir(parents=True)
    (folder / "core" / "store" / "source.py").write_text("# as committed\n")
    monkeypatch.setattr(source, "__file__", str(folder / "core" / "store" / "source.py"))
    monkeypatch.setenv("HOME", str(tmp_path))
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "one")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def instead_of_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_clean_checkout_and_an_edited_one(checkout: Path) -> None:
    clean = source.state()
    assert clean["dirty"] is None and len(clean["commit"]) == 40
    (checkout / "core" / "store" / "source.py").write_bytes(b"# caf\xe9\n")
    edited = source.state()
    (checkout / "core" / "store" / "source.py").write_bytes(b"# caf\xe8\n")
    assert edited["commit"] == clean["commit"]
    assert len({edited["dirty"], source.state()["dirty"], None}) == 3


def test_a_new_file_with_a_strange_name_is_a_change(checkout: Path) -> None:
    Path(os.fsdecode(os.fsencode(checkout) + b"/caf\xe9.py")).touch()
    assert source.state()["dirty"] not in (None, source.UNKNOWN)


@pytest.mark.parametrize("verb", ["status", "diff"])
@pytest.mark.parametrize("trouble", ["exit 128", "sleep 60"])
def test_changes_are_unknown_if_git_fails_or_is_slow(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, trouble: str
) -> None:
    monkeypatch.setattr(source, "PATIENCE_S", 1)
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout
    script = f'case " $* " in *" {verb} "*) exec {trouble};; esac\nexec {real.strip()} "$@"'
    script = script.replace("exec exit", "exit")
    instead_of_git(tmp_path / "bin", script, monkeypatch)
    assert source.state()["dirty"] == source.UNKNOWN


def test_nothing_is_known_without_git(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source.state() == {"commit": source.UNKNOWN, "dirty": source.UNKNOWN}


def test_another_repository_in_the_environment_is_not_asked(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = source.state()
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert source.state() == known


def test_what_is_no_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "__file__", str(tmp_path / "core" / "store" / "source.py"))
    assert source.state() == {"commit": None, "dirty": None}


@pytest.mark.parametrize(
    ("dirty", "told"),
    [(None, "0123"), ("9f", "0123 with local changes"), ("unknown", "0123, local changes unknown")],
)
def test_a_report_tells_unknown_from_none(dirty: str | None, told: str) -> None:
    assert digest.code({"commit": "0123", "dirty": dirty}) == told

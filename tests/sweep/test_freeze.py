"""The frozen copy of the code: what goes into it, and whose it is."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.config import ConfigError, own_code
from core.errors import AlienError
from core.store.folders import Store
from core.store.shapes import AnyObject
from slurm.profile import read_profile
from sweep.submit import batch_script, frozen_code
from sweep.worker import custody
from sweep.worker.run_job import RunJob


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four packages in a repository of git, and what people leave among them."""
    folder = tmp_path / "checkout"
    for name in frozen_code.PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    (folder / "core" / "data.yaml").write_text("a: 1")
    (folder / "core" / "run.py").touch(mode=0o755)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    (folder / "core" / "new.py").touch()
    (folder / "core" / ".env").write_text("TOKEN=1")
    (folder / "core" / ".env").chmod(0o600)
    (folder / "core" / "weights.pt").write_bytes(bytes(1000))
    (folder / "core" / "notes.yaml").touch()
    (tmp_path / "private.py").touch()
    (folder / "core" / "link.py").symlink_to(tmp_path / "private.py")
    (folder / "core" / "folder").symlink_to(tmp_path)
    (folder / "core" / "__pycache__").mkdir()
    (folder / "core" / "__pycache__" / "x.py").touch()
    monkeypatch.setattr(
        frozen_code,
        "find_spec",
        lambda name: SimpleNamespace(submodule_search_locations=[str(folder / name)]),
    )
    return folder


def copied(store: Store) -> list[str]:
    code = frozen_code.snapshot(store.sweep("s"))
    return sorted(str(path.relative_to(code / "core")) for path in (code / "core").rglob("*"))


def test_a_checkout_gives_its_modules_and_what_git_tracks(checkout: Path, store: Store) -> None:
    assert copied(store) == ["__init__.py", "data.yaml", "new.py", "run.py"]


def test_an_installation_gives_what_it_installed(
    checkout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another distribution may have put modules beside them."""
    names = ("__init__.py", "data.yaml", "run.py")
    files = [SimpleNamespace(locate=lambda n=n: checkout / "core" / n) for n in names]
    monkeypatch.setattr(importlib.metadata, "files", lambda _: files)
    (checkout / ".git").rename(checkout / "no.git")
    assert copied(store) == ["__init__.py", "data.yaml", "run.py"]


def test_a_plain_copy_gives_modules_and_data(
    checkout: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / ".git").rename(checkout / "no.git")
    assert copied(store) == ["__init__.py", "data.yaml", "new.py", "notes.yaml", "run.py"]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_modes_stay_but_for_a_groups_right_to_write(
    checkout: Path, store: Store, umask: int
) -> None:
    for name, mode in (("data.yaml", 0o600), ("run.py", 0o775), ("new.py", 0o664)):
        (checkout / "core" / name).chmod(mode)
    before = os.umask(umask)
    try:
        code = frozen_code.snapshot(store.sweep("s"))
    finally:
        os.umask(before)
    modes = [(code / "core" / n).stat().st_mode & 0o777 for n in ("data.yaml", "run.py", "new.py")]
    assert modes == [0o600, 0o755, 0o644]
    assert custody.is_own(code)
    assert bool(code.parent.stat().st_mode & 0o020) == (umask == 0o002), (
        "others freeze theirs there"
    )
    assert frozen_code.snapshot(store.sweep("s")) == code, "made once"


@pytest.mark.parametrize("change", ["folder", "file", "owner"])
def test_a_copy_that_others_could_have_changed_is_not_used(
    checkout: Path, store: Store, change: str
) -> None:
    sweep = store.sweep("s")
    code = frozen_code.snapshot(sweep)
    if change == "owner":
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(code / "core" / "run.py", 12345, -1)
    else:
        (code / "core" if change == "folder" else code / "core" / "run.py").chmod(0o775)
    mine = frozen_code.snapshot(sweep)
    assert mine != code and mine.name.startswith(code.name)
    assert frozen_code.snapshot(sweep) == frozen_code.place(sweep) == mine


def guarded(code: Path) -> subprocess.CompletedProcess[str]:
    """What the batch script does before its command."""
    lines = "\n".join([*custody.guard(code), "echo runs"])
    return subprocess.run(["bash", "-c", lines], capture_output=True, text=True)


def test_a_job_refuses_code_that_others_could_have_written(tmp_path: Path) -> None:
    code = tmp_path / "it's code"
    (code / "core").mkdir(parents=True)
    (code / "core" / "run.py").touch()
    assert guarded(code).stdout == "runs\n"
    for path in (code / "core", code / "core" / "run.py"):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        done = guarded(code)
        told = f"refused, others could have written: {path}\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
        path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(code / "core" / "run.py", 12345, -1)
        assert guarded(code).returncode == 1
    lines = custody.guard(code)
    (code / "core" / "run.py").unlink()
    (code / "core").rmdir()
    code.rmdir()
    gone = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True)
    assert gone.returncode == 1 and "No such file" in gone.stderr


def test_a_job_refuses_a_manifest_that_others_could_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "submission-0001.jsonl"
    before = os.umask(0o002)
    try:
        custody.write(path, [{"id": "a"}])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    monkeypatch.setenv(custody.OWNER, str(os.geteuid()))
    assert custody.rows(path, AnyObject) == [{"id": "a"}]
    work = RunJob(str(tmp_path), "s", str(path), 0, 1)
    for mode in (0o664, 0o646):
        path.chmod(mode)
        with pytest.raises(AlienError, match=r"submission-0001.jsonl: refused, other users"):
            work()
    path.chmod(0o600)
    monkeypatch.setenv(custody.OWNER, str(os.geteuid() + 1))
    if os.geteuid():  # what root wrote is taken
        with pytest.raises(AlienError, match="it belongs to user"):
            work()


def test_a_script_guards_the_code_that_its_job_imports(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    lines = batch_script.text(1, store.sweep("s"), read_profile("testbed")).splitlines()
    code = str(frozen_code.place(store.sweep("s")))
    (guard,) = (n for n, line in enumerate(lines) if line.startswith(f'alien="$(find {code} '))
    (path,) = (n for n, line in enumerate(lines) if line.startswith(f"export PYTHONPATH={code}$"))
    (command,) = (n for n, line in enumerate(lines) if " sweep.submit.bundle " in line)
    assert guard < path < command


def test_own_code_is_copied_beside_ours_but_what_is_installed_stays(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package whole, by git's rules; a module alone; and never what was edited since the plan."""
    package = tmp_path / "project" / "pkg"
    installed = tmp_path / "site-packages" / "bought.py"
    for file in (package / "a.py", package / "b.py", package.parent / "alone.py", installed):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("X = 1\n")
    (package / "known.bin").touch()
    subprocess.run(["git", "-C", str(package.parent), "init", "-q"], check=True)
    subprocess.run(["git", "-C", str(package.parent), "add", "pkg"], check=True)
    (package / "private.yaml").touch()
    (package / "new.py").touch()
    monkeypatch.chdir(package.parent)
    monkeypatch.syspath_prepend(str(installed.parent))
    code = [(name, own_code.digest(name)) for name in ("pkg.a:X", "alone:X", "bought:X")]
    copy = frozen_code.snapshot(store.sweep("s"), code)
    assert sorted(
        path.name for path in copy.iterdir() if path.name not in frozen_code.PACKAGES
    ) == [
        "alone.py",
        "frozen.json",
        "pkg",
    ]
    assert sorted(path.name for path in (copy / "pkg").iterdir()) == [
        "a.py",
        "b.py",
        "known.bin",
        "new.py",
    ]
    (package / "b.py").write_text("X = 2\n")
    assert frozen_code.snapshot(store.sweep("s"), code) != copy, "helpers are frozen as they are"
    (package / "a.py").write_text("X = 2\n")
    with pytest.raises(ConfigError, match=r"a.py has changed"):
        frozen_code.snapshot(store.sweep("s"), code)

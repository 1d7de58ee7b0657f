"""What every test shares: one thread, no network, no login, and a store of its own.

Nothing here imports torch: the tests of planning and analysis do without it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from core.store.folders import Store

if TYPE_CHECKING:
    from forks import Forks
    from tiny import Trained

# Before torch or numpy is imported: bit-identity is promised for one number of threads only, and
# parallel tests must not fight for cores. Child processes inherit it.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when timm is imported

# Whoever starts the tests may ignore signals (nohup, `&` in a script, some CI) or block them.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(_number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

# Tables are as wide as in a file or a pipe, whatever terminal the tests run in.
os.environ["COLUMNS"] = "160"

# A red test stays red when it is run again; the slowness of a shared machine is no failure.
hypothesis.settings.register_profile("everyday", deadline=None, derandomize=True)
hypothesis.settings.load_profile("everyday")

_LEAKS = ("EPSWEEP_", "WANDB_", "SUBMITIT_", "SLURM_JOB", "SLURM_ARRAY")


_left_out = {"slow": 0, "slurm": 0}


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests with a mark that this call leaves out."""
    for item in items:
        mark = next((name for name in ("slurm", "slow") if item.get_closest_marker(name)), None)
        if mark:
            _left_out[mark] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist hands its count to the process that prints: every one has the same."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = _left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if any(_left_out.values()):
        terminalreporter.write_line(
            f"left out: {_left_out['slow']} slow tests and {_left_out['slurm']} on a real Slurm; "
            "`make slow` runs all of them, `make slurm-test` those on Slurm"
        )


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person or job that runs the tests reaches them, nor the other way round."""
    for name in os.environ:
        if name.startswith(_LEAKS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EPSWEEP_ROOT", str(tmp_path / "outputs"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb" / name.lower()))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "outputs")


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `sweep ...` in this process: (exit code, stdout, stderr)."""
    from sweep import cli

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        shown = capfd.readouterr()
        return int(left.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "epsweep-test", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small file system; the tests with a limit remain")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="session")
def trained() -> Trained:
    """A really trained small network and its test images, see tiny.Trained."""
    import tiny

    return tiny.train_one()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts functions in processes of their own that may be killed, see forks.Forks."""
    from forks import Forks

    yield Forks()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: four minutes at the end, alone, would be four minutes more. Then
    files on Slurm, which mostly wait, spread evenly among those that compute."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in sorted(items, key=lambda item: "test_storm" not in item.nodeid):
        files.setdefault(item.path, []).append(item)
    waiting = {path for path, tests in files.items() if tests[0].get_closest_marker("slurm")}
    place = {
        path: number / len(same)
        for same in (waiting, files.keys() - waiting)
        for number, path in enumerate(sorted(same, key=[*files].index))
    }
    items[:] = [item for path in sorted(files, key=place.__getitem__) for item in files[path]]

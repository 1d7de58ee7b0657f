"""Two users on a Slurm that hides the jobs of others (PrivateData): no run is queued twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_bed import needs_slurm
from slurm_sweep import ROOT, Sweep

from slurm.testbed import Bed
from slurm.testbed.bed import memory

pytestmark = [*needs_slurm, pytest.mark.slow]
HELD = {"slurm_additional_parameters": {"hold": True}}
READS_ALL = "+dac_read_search"
"""Python and this code may lie in a home that is closed to others; nothing else is lent."""


def act(user: str, group: str) -> list[str]:
    """The beginning of a command that is that user's; what it writes is open to the group."""
    caps = ("--inh-caps", READS_ALL, "--ambient-caps", READS_ALL)
    who = ("--reuid", user, "--regid", group, "--clear-groups")
    return ["setpriv", *who, *caps, "sh", "-c", 'umask 002; exec "$@"', "sh"]


@pytest.fixture(scope="module")
def people() -> Iterator[tuple[str, str, str]]:
    """Two users and their group, for as long as the tests of this file take."""
    if os.geteuid() or not all(map(shutil.which, ("useradd", "groupadd", "setpriv"))):
        pytest.skip("no right to make users here")
    mark = uuid.uuid4().hex[:8]
    group, names = f"sweep-{mark}", (f"alice-{mark}", f"bob-{mark}")
    made: list[list[str]] = []
    try:
        subprocess.run(["groupadd", group], check=True)
        made.append(["groupdel", group])
        for name in names:
            subprocess.run(["useradd", "--no-create-home", "-g", group, name], check=True)
            made.insert(0, ["userdel", name])
        probe = [*act(names[0], group), sys.executable, "-c", "import sweep.cli"]
        if subprocess.run(probe, cwd=ROOT, capture_output=True).returncode:
            pytest.skip("another user cannot run this python")
        yield (*names, group)
    finally:
        for command in made:
            subprocess.run(command, check=True)


@pytest.fixture
def shared(people: tuple[str, str, str]) -> Iterator[Path]:
    """A folder of the group; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(dir=memory(), ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.chown(folder, group=people[2])
        folder.chmod(0o2775)
        yield folder


def launch(sweep: Sweep, user: str, group: str, verb: str = "launch") -> str:
    """What `sweep launch` says to a user."""
    more = ("--profile", str(sweep.profile_file)) if verb == "launch" else ()
    python = (*act(user, group), sys.executable, "-m", "sweep.cli", verb)
    done = subprocess.run(
        [*python, str(sweep.grid_file), *more, "--root", str(sweep.store.root)],
        env=os.environ | sweep.bed.env() | {"HOME": str(sweep.folder), "PYTHONPATH": str(ROOT)},
        cwd=sweep.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_what_a_colleague_has_queued_is_not_queued_again_though_slurm_hides_it(
    people: tuple[str, str, str], shared: Path
) -> None:
    alice, bob, group = people
    with Bed(nodes=1, acct="none", kill_wait=2) as bed:
        for folder in (bed.root, bed.root / "run"):  # munge's socket is there
            folder.chmod(0o755)
        bed.conf.write_text(bed.conf.read_text() + "PrivateData=jobs\n")
        bed.run("scontrol", "reconfigure")
        first, second = Sweep(shared, bed), Sweep(shared, bed, "second")
        first.write_grid(seeds=2)
        second.write_grid(seeds=3)  # two of them are the first grid's
        first.write_profile(HELD)
        assert "2 runs submitted" in launch(first, alice, group)
        unseen = subprocess.run(
            [*act(bob, group), "squeue", "-h"], env=os.environ | bed.env(), capture_output=True
        )
        assert unseen.stdout == b"", "Slurm shows bob none of them"
        assert "nothing to submit" in launch(first, bob, group)
        assert "2 pending" in launch(first, bob, group, "status")
        launch(second, bob, group)
        owners = bed.run("squeue", "-h", "-r", "-o", "%u").split()
        assert sorted(owners) == [alice, alice, bob]

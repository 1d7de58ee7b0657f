"""The test bed: a Slurm of its own that leaves nothing behind."""

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_bed import needs_slurm, submit
from waiting import until

from slurm.testbed import Bed, BedError, Knobs, install, processes
from slurm.testbed.__main__ import main
from slurm.testbed.config import Place, render

PLACE = Place(Path("/bed"), 21_000, "here", True, (22, 5))
ROOT = Path(__file__).parents[2]


def listening(ports: range) -> dict[int, str]:
    """Port -> local address (hexadecimal) of the sockets that listen on one of `ports`."""
    lines = [
        line.split()
        for file in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(file).read_text().splitlines()[1:]
    ]
    pairs = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {int(port, 16): address for address, port in pairs if int(port, 16) in ports}


def etc() -> list[tuple[str, int]]:
    return [(str(p), p.stat().st_mtime_ns) for p in Path("/etc").rglob("slurm*")]


def test_everything_in_the_configuration_is_inside_the_folder_and_on_loopback() -> None:
    texts = render(Knobs(nodes=3, acct="dbd"), PLACE, "secret")
    paths = [w for text in texts.values() for w in text.replace("=", " ").split() if w[0] == "/"]
    assert all(path.startswith(("/bed/", "/bin/true")) for path in paths)
    assert "NodeAddr=127.0.0.1 Port=[21003-21005]" in texts["slurm.conf"]
    assert [name for name, text in texts.items() if "secret" in text] == ["slurmdbd.conf"]


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"acct": "dbx"}, "acct: expected none, shim or dbd"),
        ({"max_submit": 5}, "max_submit: only"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(knobs: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Knobs(**knobs)  # type: ignore[arg-type]


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install, "SBIN", str(tmp_path))
    with pytest.raises(BedError, match="not installed: slurmctld, slurmd, slurm-client, munge"):
        Bed(tmp_path / "bed").start()
    assert install.missing(dbd=True)[-2:] == ["slurmdbd", "mariadb-server"]


def test_a_wrong_flag_is_one_line_and_not_a_bed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["start", "--root", str(tmp_path), "--acct", "dbx"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        main(["begin"])
    assert caught.value.code == 2


@pytest.mark.slurm
class TestReal:
    pytestmark = needs_slurm

    def test_it_is_gone_afterwards_with_its_jobs_and_folder(self) -> None:
        before = etc()
        with Bed(nodes=1) as bed:
            job = submit(bed, "env -i setsid sleep 60 & trap '' TERM; sleep 60")
            until(lambda: sum(p.comm == "sleep" for p in bed.processes()) == 2)
            assert bed.run("squeue", "-h", "-o", "%i").strip() == job
        assert bed.processes() == []
        assert not bed.root.exists()
        assert etc() == before

    def test_it_is_gone_when_the_block_fails(self) -> None:
        with pytest.raises(ZeroDivisionError), Bed(nodes=1, acct="none") as bed:
            raise ZeroDivisionError
        assert bed.processes() == []
        assert not bed.root.exists()

    @pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
    def test_it_is_gone_when_its_owner_is_killed(self, sig: signal.Signals) -> None:
        owner = (
            "from slurm.testbed import Bed\nimport time\n"
            "with Bed(nodes=1) as bed: print(bed.root, flush=True); time.sleep(60)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", owner], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            bed = Bed(Path(process.stdout.readline().strip()))
            assert {"slurmctld", "n1"} <= {p.node or p.comm for p in bed.processes()}
            process.send_signal(sig)
        until(lambda: not bed.processes() and not bed.root.exists())

    def test_two_live_side_by_side_and_on_loopback(self) -> None:
        with Bed(nodes=1) as one, Bed(nodes=3) as two:
            submit(two, "true", "--hold")
            assert one.run("squeue", "-h") == ""
            for bed in (one, two):
                ports = range(bed.place.base_port, bed.place.base_port + 3 + bed.knobs.nodes)
                found = listening(ports)
                assert len(found) == bed.knobs.nodes + 1
                everywhere = set() if bed.place.loopback else {"00000000"}
                assert set(found.values()) == (everywhere or {"0100007F"})

    def test_a_stranger_is_not_answered(self, tmp_path: Path) -> None:
        with Bed(nodes=1) as mine, Bed(nodes=1) as theirs:
            conf = tmp_path / "slurm.conf"
            conf.write_text(mine.conf.read_text().replace(f"{mine.root}/run", f"{theirs.root}/run"))
            with pytest.raises(BedError, match="submission failed"):
                mine.run("env", f"SLURM_CONF={conf}", "sbatch", "--wrap", "true")
            assert "Invalid credential" in (mine.root / "log/slurmctld.log").read_text()
            assert stat.S_IMODE(mine.root.stat().st_mode) == 0o700

    def test_a_second_start_is_refused_and_does_no_harm(self) -> None:
        with Bed(nodes=1) as bed:
            with pytest.raises(BedError, match="already running"), Bed(bed.root):
                pass
            assert "UP" in bed.run("scontrol", "ping")

    def test_a_folder_that_is_no_bed_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("ten years")
        with pytest.raises(BedError, match="not empty, and not a bed"), Bed(tmp_path):
            pass
        assert main(["wipe", "--root", str(tmp_path)]) == 0
        assert (tmp_path / "thesis.tex").exists()

    def test_jobs_outlive_slurmctld_and_slurmd(self) -> None:
        with Bed(nodes=1) as bed:
            job = submit(bed, "sleep 4")
            until(lambda: "RUNNING" in bed.run("squeue", "-h", "-o", "%T"))
            bed.stop_daemon("n1")
            bed.stop_daemon("slurmctld", signal.SIGTERM)  # SIGKILL would forget that it started
            with pytest.raises(BedError):
                bed.run("scontrol", "ping")
            bed.start_daemon("slurmctld")
            bed.start_daemon("n1")
            bed.wait_idle()
            done = ("squeue", "-h", "-t", "all", "-j", job, "-o", "%T %V")
            until(lambda: bed.run(*done).startswith("COMPLETED"))
            shown = bed.run("scontrol", "show", "job", job)
            assert "Restarts=0" in shown

    @pytest.mark.slow
    def test_a_crashed_node_takes_its_jobs_along(self) -> None:
        with Bed(nodes=2, slurmd_timeout=5) as bed:
            job = submit(bed, "sleep 60", "--nodelist=n2", "--no-requeue")
            until(lambda: any(p.node == "n2" and p.comm == "sleep" for p in bed.processes()))
            step, *others = processes.on_node("n2", bed.processes())
            assert step.comm == "slurmstepd"  # dies first, or it may report that the job failed
            assert {p.comm for p in others} >= {"slurmd", "sleep"}
            bed.crash("n2")
            assert {p.node for p in bed.processes()} == {None, "n1"}
            end = ("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")
            until(lambda: bed.run(*end).strip() == "NODE_FAIL")

    def test_stopped_it_can_be_started_again_with_its_queue(self, tmp_path: Path) -> None:
        bed = Bed(nodes=1)
        try:
            bed.start()
            job = submit(bed, "true", "--hold")
            bed.stop()
            assert bed.processes() == []
            bed.start()
            assert bed.run("squeue", "-h", "-o", "%i").strip() == job
        finally:
            bed.wipe()

    def test_from_a_shell(self, tmp_path: Path) -> None:
        bed = f"{sys.executable} -m slurm.testbed"
        root = f"--root {tmp_path}/bed"
        script = (
            f"set -e; {bed} start {root} --nodes 1 --gpus 2 --acct none; "
            f'eval "$({bed} env {root})"; {bed} status {root}; '
            f"sbatch --parsable --hold --gpus-per-node=2 --wrap true; {bed} wipe {root}"
        )
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "munged, n1, slurmctld, slurmscriptd" in done.stdout
        assert done.stdout.splitlines()[-1] == "1"
        assert not (tmp_path / "bed").exists()

    def test_starting_is_quick(self) -> None:
        start = time.monotonic()
        with Bed(nodes=2):
            assert time.monotonic() - start < 10

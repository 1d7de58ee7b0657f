"""Every way a run can fail has a class, and every class of failure its way of being tried again."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from core.config import ConfigError
from core.errors import DivergedError
from core.options import Options
from core.store.claims import Claim
from core.store.folders import Store
from slurm.cluster import JobState
from slurm.profile import Profile, read_profile
from sweep import launcher
from sweep.grid import Grid, load_grid
from sweep.state import breaker, repair, triage
from sweep.state.plan import State, Status
from sweep.submit.order import Runs
from sweep.worker import attempt

GRID = """
name: small
base: {weights: random, image_size: 32, epochs: 1, batch: 50, backbone: mini_convnext,
       dataset: fake, epsilon_g: 2/255, schedule: fix}
grid: {optim.lr: [1e-4, 2e-4, 3e-4, 4e-4]}
evals:
  - {epsilons: 0..2/255, steps: 1, images: 20, mode: exact}
"""
PROFILE = """
executor: slurm
slurm: {timeout_min: 20, mem_gb: 8}
overrides: {mini_convnext: {mem_gb: 16}}
"""


def small(folder: Path) -> Grid:
    path = folder / "small.yaml"
    path.write_text(GRID)
    return load_grid(path)


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    path = tmp_path / "mine.yaml"
    path.write_text(PROFILE)
    return read_profile(path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "oom"),
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (DivergedError("epoch 3: loss is nan"), "diverged"),
        (ConfigError("weights 'x.pt': not a readable checkpoint"), "data"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "train/1.jpg"), "data"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "node"),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), "node"),
        (OSError(errno.ESTALE, "Stale file handle"), "node"),
        (RuntimeError("CUDA error: device-side assert triggered"), "bug"),
        (ValueError("shapes do not fit"), "bug"),
        (KeyError("lr"), "bug"),
    ],
)
def test_exceptions(error: BaseException, kind: str) -> None:
    found, reason = triage.classify(error)
    assert (found, "\n" in reason) == (kind, False)
    assert found in triage.FAILURES
    assert reason.strip()


@pytest.mark.parametrize(
    ("state", "log", "kind"),
    [
        (JobState("FAILED", exit_code=0, signal=9, oom=True), "", "memory"),  # sacct's steps
        (JobState("OUT_OF_MEMORY"), "", "memory"),
        (JobState("FAILED", exit_code=1), "Detected 1 oom_kill event in StepId=7.0", "memory"),
        (JobState("FAILED", exit_code=1), "torch.OutOfMemoryError: CUDA out of memory", "oom"),
        (JobState("TIMEOUT"), "", "timeout"),
        (JobState("FAILED", signal=15), "CANCELLED AT 2026 DUE TO TIME LIMIT ***", "timeout"),
        (JobState("PREEMPTED"), "", "preempted"),
        (JobState("NODE_FAIL"), "", "node"),
        (JobState("FAILED", exit_code=1), "CUDA error: uncorrectable ECC error", "node"),
        (JobState("CANCELLED"), "JOB 7 ON n1 CANCELLED AT 2026 ***", "cancelled"),
        (JobState("FAILED", exit_code=0, signal=9), "", "killed"),
        (JobState("FAILED", exit_code=137), "", "killed"),
        (JobState("FAILED", exit_code=1), "OSError: No space left on device", "disk"),
        (JobState("FAILED", exit_code=7), "no such module: cuda", "bug"),
        (JobState("FAILED", exit_code=139), "Segmentation fault", "bug"),
    ],
)  # fmt: skip
def test_jobs_that_end_without_a_record(
    tmp_path: Path, state: JobState, log: str, kind: str
) -> None:
    file = tmp_path / "7_0_log.err"
    file.write_text(f"epsweep: start 0 on n1\n{log}\n")
    told = triage.of_job(state, file)
    assert told and told[0] == kind


def test_what_an_earlier_start_of_the_job_wrote_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "7_0_log.err"
    file.write_text(
        "epsweep: start 0 on n1\nCUDA out of memory\nepsweep: start 1 on n2\nSegmentation fault\n"
    )
    told = triage.of_job(JobState("FAILED", exit_code=139), file)
    assert told == ("bug", "its process ended by signal 11: Segmentation fault")


def failed(loaded: Grid, kind: str, attempts: int = 1) -> Status:
    return Status(loaded.runs[0], State.FAILED, kind=kind, attempts=attempts)


def tried(status: Status, store: Store, profile: Profile) -> repair.Repair:
    """One retry: its plan, which is kept."""
    folder = store.run(status.run.id)
    found = repair.plan(status, folder, profile)
    assert isinstance(found, repair.Repair), found
    repair.keep(found, folder)
    return found


def test_each_retry_out_of_gpu_memory_halves_the_images_per_forward(
    tmp_path: Path, store: Store, profile: Profile
) -> None:
    loaded = small(tmp_path)
    ends = [failed(loaded, "oom", attempts) for attempts in range(1, repair.LIMIT + 2)]
    sizes = [tried(end, store, profile).applied(Options()).micro_batch for end in ends[:-1]]
    assert sizes == [25, 12, 6]
    folder = store.run(loaded.runs[0].id)
    assert repair.plan(ends[-1], folder, profile) == "failed again after 3 retries"


def test_a_retry_that_was_never_begun_counts_once(
    tmp_path: Path, store: Store, profile: Profile
) -> None:
    """Slurm refused the job, or had no room for it: the same repair is still the one to try."""
    status = failed(small(tmp_path), "oom")
    found = [tried(status, store, profile) for _ in range(2 * repair.LIMIT)]
    assert {item.micro_batch for item in found} == {25}
    assert found[-1].retries == {"oom": 1}


def test_each_retry_out_of_host_memory_asks_for_more(
    tmp_path: Path, store: Store, profile: Profile
) -> None:
    loaded = small(tmp_path)
    ends = [failed(loaded, "memory", attempts) for attempts in (1, 2, 3)]
    assert [tried(end, store, profile).mem_gb for end in ends[:2]] == [24, 36]
    # Never less than the profile, which its user may have raised meanwhile.
    (tmp_path / "more.yaml").write_text(PROFILE.replace("16", "100"))
    more = read_profile(tmp_path / "more.yaml")
    (part,) = Runs(store.sweep("s"), store, more, loaded.runs[:1]).parts()
    assert part.profile.slurm.mem_gb == 100
    assert tried(ends[2], store, more).mem_gb == 150


@pytest.mark.parametrize("kind", sorted(set(triage.FAILURES) - {"oom", "memory"}))
def test_other_failures_are_tried_again_unchanged(
    tmp_path: Path, store: Store, profile: Profile, kind: str
) -> None:
    assert tried(failed(small(tmp_path), kind), store, profile).applied(Options()) == Options()


@pytest.mark.parametrize(
    ("error", "held_back"),
    [
        (DivergedError("loss is nan"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False),
        (ConfigError("no such weights"), True),
        (ValueError("shapes do not fit"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_failures_hold_a_sweep_back(
    tmp_path: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    held_back: bool,
) -> None:
    def fail(*_: object) -> None:
        raise error.with_traceback(None)

    monkeypatch.setattr("core.run.pipeline.execute", fail)
    loaded = small(tmp_path)
    for run in loaded.runs:
        options = Options(tracking="none", group=loaded.name)
        assert attempt.make(run.config, run.evals, store, options) == "failed"
    kind, _ = triage.classify(error)
    seen = launcher.look(loaded, store).statuses
    assert {(status.state, status.kind) for status in seen} == {(State.FAILED, kind)}
    assert (breaker.tripped(store.sweep(loaded.name)) is not None) == held_back


def test_failed_means_one_class_of_failure_or_of_interruption(
    tmp_path: Path, store: Store, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = small(tmp_path)
    ends = [
        ("failed", "oom"),
        ("failed", "memory"),
        ("interrupted", "preempted"),
        ("failed", "bug"),
    ]
    for run, (outcome, kind) in zip(loaded.runs, ends, strict=True):
        claim = Claim.acquire(store.run(run.id))
        assert claim
        claim.release(outcome, kind=kind, reason="so it is")
    for asked, rows in (("oom", [0, 1]), ("memory", [1]), ("preempted", [2]), (None, [0, 1, 3])):
        assert chosen(loaded, store, profile, asked, monkeypatch) == rows
    with pytest.raises(ConfigError, match="--failed preemted: unknown class, did you mean"):
        launcher.retry(loaded, store, profile, kind="preemted", console=None)  # type: ignore[arg-type]


def chosen(
    loaded: Grid,
    store: Store,
    profile: Profile,
    asked: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> list[int]:
    """Which runs `sweep retry --failed` would submit."""
    found: list[int] = []

    def launch(grid: Grid, store: Store, profile: Profile, *, wanted, **_: object) -> None:  # type: ignore[no-untyped-def]
        seen = launcher.look(grid, store).statuses
        found.extend(row for row, status in enumerate(seen) if wanted(status))

    monkeypatch.setattr(launcher, "launch", launch)
    launcher.retry(loaded, store, profile, kind=asked, console=None)  # type: ignore[arg-type]
    return found

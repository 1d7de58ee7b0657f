"""The shapes of the files in a store: what a reader may rely on, checked when a file is read.

Only fields that are always needed are required, so that stores of other versions stay readable;
unknown fields are ignored.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from core.config.strength import Norm, Strength

AnyObject = dict[str, Any]
Count = Annotated[int, Field(ge=0)]
Many = Annotated[int, Field(ge=1)]


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Time = Annotated[str, AfterValidator(_time)]


class Inputs(TypedDict):
    """The inputs of a run, see core.data.digests: digests, and the cache of its hub weights."""

    data: NotRequired[str | None]
    weights: NotRequired[str | None]
    hub: NotRequired[str | None]


class _Env(TypedDict):
    versions: NotRequired[dict[str, str]]
    commit: NotRequired[str | None]
    dirty: NotRequired[str | None]
    host: NotRequired[str | None]
    device: NotRequired[str | None]
    threads: NotRequired[int]
    processes: NotRequired[int]
    compile: NotRequired[str]
    kernels: NotRequired[dict[str, Any]]
    inputs: NotRequired[Inputs]


def _something(env: _Env) -> _Env:
    if not env:
        raise ValueError("is empty")
    return env


Env = Annotated[_Env, AfterValidator(_something)]
"""env.json."""


class Result(TypedDict):
    """result.json."""

    evals: list[str]
    delay: NotRequired[Count]
    epochs: NotRequired[Count]
    seconds: NotRequired[float]
    batchnorm_images: NotRequired[list[Many]]
    finished: NotRequired[str]
    inputs: NotRequired[Inputs]
    crc32: NotRequired[dict[str, Count]]  # by name in the folder, see core.store.damage


class Progress(TypedDict):
    """What an attempt was doing at its last heartbeat."""

    phase: NotRequired[str]
    epoch: NotRequired[Count]
    share: NotRequired[float]
    images_per_s: NotRequired[float]
    left_s: NotRequired[float | None]


class Attempt(TypedDict):
    """A row of attempts.jsonl."""

    attempt: Many
    outcome: str | None
    kind: NotRequired[str | None]
    reason: NotRequired[str | None]
    started: NotRequired[Time | None]
    ended: NotRequired[Time | None]
    gpus: NotRequired[float | None]
    notes: NotRequired[list[str]]


class Claim(Attempt):
    """claim-<n>.json, once its owner has filled it."""

    host: NotRequired[str | None]
    machine: NotRequired[str]
    pid: NotRequired[int]
    pid_start: NotRequired[str | None]
    job: NotRequired[str | None]
    stale_s: NotRequired[float]
    since: NotRequired[float]
    seconds_before: NotRequired[float]
    gpu_seconds_before: NotRequired[float]
    progress: NotRequired[Progress]


class MetricsRow(TypedDict):
    """A row of metrics.jsonl: one epoch. All fields but seconds and images_per_s are
    bit-reproducible, given the same number of images per BatchNorm statistic."""

    epoch: Count  # from 0
    classes: NotRequired[Many]  # of the task; rows of older versions lack it
    epsilon: float  # strength of the training attack, pixels in [0, 1]; a mean if images differ
    epsilon_quartiles: NotRequired[list[float]]  # of the images' strengths, if these differ
    branch_accuracy: NotRequired[float]  # on training images before the epoch, for AutoLoRa
    lr: float  # at the end of the epoch
    train_loss: float  # mean over the epoch's attacked images
    train_clean_correct: int  # before the attack, in evaluation mode; -1 if eps = 0
    train_adv_correct: NotRequired[int]  # right at every point of the attack; -1 if eps = 0
    train_images: Many
    val_loss: float  # clean
    val_clean_correct: Count
    val_clean_images: Many
    val_adv_correct: Count
    val_adv_images: Many
    val_epsilon: NotRequired[str]  # strength of the adversarial measurement
    seconds: float
    micro_batch: NotRequired[Many]  # images per forward of a process, at the end of the epoch
    batchnorm_images: NotRequired[list[Many]]  # per statistic, [128, 64] if halved; [] if none
    images_per_s: NotRequired[float]  # of training, without validation


class ResultRow(TypedDict):
    """Accuracy at one strength in evals/<id>.json: `correct` of `n` images."""

    attack: NotRequired[str]
    norm: Norm
    epsilon: str
    n: Many
    correct: Count
    type: NotRequired[str]  # of corruption; such rows have strength 0
    expected: NotRequired[float]  # exact accuracy over eps ~ U[0, epsilon], if known from distances


def _possible(row: ResultRow) -> ResultRow:
    Strength.parse(row["epsilon"], row["norm"])
    if row["correct"] > row["n"]:
        raise ValueError(f"{row['correct']} of {row['n']} images are right")
    return row


class _Asked(TypedDict):
    attack: str
    epsilons: NotRequired[Annotated[list[str], Field(min_length=1)]]
    norm: NotRequired[str]
    split: NotRequired[str]
    images: NotRequired[Many | None]
    steps: NotRequired[Count]
    per_image: NotRequired[str]
    prior: NotRequired[list[float] | None]


class _Opinion(TypedDict):
    epsilon: str
    images: Many
    broken: Count


class _Evaluation(TypedDict):
    config: _Asked
    rows: list[Annotated[ResultRow, AfterValidator(_possible)]]
    metrics: NotRequired[dict[str, float]]
    n: Many
    split_images: Many
    zero_gradient_images: NotRequired[Count]
    opinion: NotRequired[list[_Opinion]]
    flags_crc32: NotRequired[Count]
    commit: NotRequired[str | None]


def _measured(record: _Evaluation) -> _Evaluation:
    if not record["rows"] and not record.get("metrics"):
        raise ValueError("neither rows nor metrics")
    return record


Evaluation = Annotated[_Evaluation, AfterValidator(_measured)]
"""evals/<id>.json."""


class Repair(TypedDict):
    """repair.json, see sweep.state.repair."""

    micro_batch: NotRequired[Many | None]
    mem_gb: NotRequired[float | None]
    retries: NotRequired[dict[str, Count]]
    answers: NotRequired[str]
    replaces: NotRequired[str]


class Manifest(TypedDict):
    """A row of manifest.jsonl, or of the frozen one of a submission."""

    id: str
    setting: str
    config: dict[str, Any]
    evals: dict[str, Any] | list[str]
    after: NotRequired[Count]
    tuned: NotRequired[dict[str, Any] | None]


class Search(TypedDict):
    """A row of the manifest of `sweep tune`."""

    search: dict[str, Any]
    after: list[Count]
    numbers: NotRequired[list[Count]]


class _Process(TypedDict):
    machine: str
    pid: int
    pid_start: str | None


class _Submission(TypedDict):
    executor: str
    manifest: str
    processes: NotRequired[list[_Process]]
    name: NotRequired[str]
    user: NotRequired[str | None]
    array: NotRequired[str | None]
    tasks: NotRequired[Count]
    jobs: NotRequired[list[str]]
    first: NotRequired[Count]
    per: NotRequired[Many]
    end: NotRequired[Count]


def _complete(row: _Submission) -> _Submission:
    lacking = {"name", "array", "tasks", "first", "per", "end"} - set(row)
    if "processes" not in row and lacking:
        raise ValueError(f"an array without {', '.join(sorted(lacking))}")
    if "jobs" in row and len(row["jobs"]) != row.get("tasks"):
        raise ValueError(f"tasks: {row.get('tasks')}, jobs: {len(row['jobs'])}")
    return row


Submission = Annotated[_Submission, AfterValidator(_complete)]
"""A row of submissions.jsonl: a Slurm array, the jobs of a plug-in, or worker processes."""


class _Trial(TypedDict):
    state: Literal["completed", "pruned", "diverged"]
    reason: str | None
    value: float | None
    params: NotRequired[dict[str, float]]
    epochs: NotRequired[Count]
    images: NotRequired[Count]


def _judged(trial: _Trial) -> _Trial:
    if trial["state"] == "completed" and (trial["value"] is None or "params" not in trial):
        raise ValueError("a completed trial must have a value and params")
    return trial


Trial = Annotated[_Trial, AfterValidator(_judged)]
"""trial.json of a search."""


class Winner(TypedDict):
    """The winner of a search."""

    params: NotRequired[dict[str, float | str] | None]
    value: NotRequired[float | None]
    trials: Count


class Digests(TypedDict):
    """Cached digests of files: name -> size, inode, times and sha256 when it was read."""

    files: dict[str, Annotated[list[int | str], Field(min_length=5, max_length=5)]]


class Place(TypedDict):
    """The address at which the leader of a team listens."""

    host: str
    port: Count

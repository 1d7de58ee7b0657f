"""W&B is a mirror: an offline file holds curves and summary, and its failures stop nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tiny
import wandb
from wandb_file import segments

from core.config import EvalConfig, RunConfig
from core.evaluation import queue
from core.options import Mode
from core.run import pipeline
from core.store import records, tracking
from core.store.claims import Claim
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, read_jsonl
from core.store.shapes import MetricsRow
from core.store.tracking import Tracker, curves

EVALS = [
    EvalConfig.parse({"steps": 2, "epsilons": "0..8/255", "images": 12}),
    EvalConfig.parse({"steps": 3, "epsilons": ["0", "8/255"], "split": "val"}),
]


def execute(
    store: Store, config: RunConfig, *, tracking: Mode = "offline", group: str | None = "colours"
) -> RunDir:
    claim = Claim.acquire(store.run(config.id))
    assert claim
    try:
        options = pipeline.Options(tracking=tracking, images=20, group=group)
        pipeline.execute(config, EVALS, store, claim, options)
    finally:
        claim.release("done")
    return store.run(config.id)


def notes(folder: RunDir) -> list[str]:
    found: list[str] = read_jsonl(folder.attempts)[-1]["notes"]
    return found


def assert_holds_the_curves(segment: dict[str, Any], rows: list[Any]) -> None:
    assert [step["_step"] for step in segment["history"]] == list(range(len(rows)))
    for step, row in zip(segment["history"], rows, strict=True):
        logged = {key: value for key, value in step.items() if not key.startswith("_")}
        assert logged == pytest.approx(curves(row, "linf"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of three epochs, the first without an attack, tracked offline."""
    store = Store(tmp_path_factory.mktemp("tracked"))
    return execute(store, tiny.config(epochs=3, schedule={"T1": 0, "T2": 2}))


def test_the_offline_file_holds_the_curves(finished: RunDir) -> None:
    (segment,) = segments(finished)
    rows = read_jsonl(finished.metrics)
    assert len(rows) == 3
    assert_holds_the_curves(segment, rows)
    assert [step["epoch"] for step in segment["history"]] == [0, 1, 2]
    assert [step["train/epsilon_255"] for step in segment["history"]] == pytest.approx([0, 4, 8])
    assert ["train/clean" in step for step in segment["history"]] == [False, True, True]


def test_the_offline_file_says_which_run_it_is(finished: RunDir) -> None:
    (segment,) = segments(finished)
    assert (segment["id"], segment["group"], segment["project"]) == (
        finished.id,
        "colours",
        "epsweep",
    )
    config = {key: value for key, value in segment["config"].items() if key != "_wandb"}
    assert config.pop("setting") == "T1=0;T2=2"
    assert RunConfig.parse(config).id == finished.id, "the config there is the config here"
    assert segment["exit"] == 0


def test_the_summary_is_that_of_the_results(finished: RunDir) -> None:
    (segment,) = segments(finished)
    summary = segment["summary"]
    result = read_json(finished.result)
    assert result and summary["delay"] == result["delay"]
    assert summary["setting"] == "T1=0;T2=2"
    for asked in EVALS:
        stored = read_json(finished.eval_json(asked.id))
        assert stored
        prefix = f"{asked.split}/apgd-ce-{asked.steps}"
        assert summary[f"{prefix}/images"] == stored["n"]
        for row in stored["rows"]:
            label = row["epsilon"].removesuffix("/255")
            assert summary[f"{prefix}/eps{label}"] == pytest.approx(row["correct"] / row["n"])
    stored = read_json(finished.eval_json(EVALS[0].id))
    assert stored
    expected = records.expected_accuracy(records.curve(stored["rows"]), Fraction(8, 255))
    assert summary["test/apgd-ce-2/expected"] == pytest.approx(expected)
    # Two strengths are not the grid that the expected accuracy is defined on.
    assert "val/apgd-ce-3/expected" not in summary


def test_a_resumed_run_goes_on_as_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt fails after training; the segment of the second one is complete."""
    config = tiny.config()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the node caught fire")

    with monkeypatch.context() as patch:
        patch.setattr(queue, "search", fail)
        patch.setattr(queue, "_clean_search", fail)
        patch.setattr(pipeline.Trainer, "_validate", lambda _: dict(VALIDATED))
        with pytest.raises(RuntimeError, match="fire"):
            execute(store, config)
    folder = execute(store, config)
    first, second = segments(folder)
    assert first["id"] == second["id"] == folder.id
    assert (first["exit"], second["exit"]) == (1, 0)
    for segment in (first, second):
        assert_holds_the_curves(segment, read_jsonl(folder.metrics))
    assert "delay" in second["summary"] and "delay" not in first["summary"]


VALIDATED = {
    "val_loss": 1.0,
    "val_clean_correct": 3,
    "val_clean_images": 20,
    "val_adv_correct": 1,
    "val_adv_images": 10,
    "val_epsilon": "8/255",
}


def test_auto_is_offline_without_a_login(store: Store) -> None:
    folder = execute(store, tiny.config(), tracking="auto")
    assert len(segments(folder)) == 1 and notes(folder) == []


def test_auto_is_online_with_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(**options: Any) -> None:
        asked.append(options["mode"])
        raise wandb.errors.CommError("no network here")

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", refuse)
    for mode in ("auto", "online", "offline"):
        Tracker.start(CONFIG, store.run("r"), mode=mode, group=None, on_failure=lambda _: None)
    assert asked == ["online", "online", "offline"]


def assert_complete(folder: RunDir) -> None:
    result = read_json(folder.result)
    assert result and result["evals"] == [asked.id for asked in EVALS]
    assert len(read_jsonl(folder.metrics)) == result["epochs"]


def broken_init(patch: pytest.MonkeyPatch, folder: RunDir) -> str:
    def fail(**_: Any) -> None:
        raise wandb.errors.CommError("Run initialization has timed out\nafter 60 s")

    patch.setattr(wandb, "init", fail)
    return "W&B failed (Run initialization has timed out); the run folder has all results"


def broken_folder(patch: pytest.MonkeyPatch, folder: RunDir) -> str:
    folder.path.mkdir(parents=True)
    folder.tracking.write_text("in the way")
    return "W&B failed ("


def broken_log(patch: pytest.MonkeyPatch, folder: RunDir) -> str:
    def fail(*_: Any) -> None:
        raise BrokenPipeError

    patch.setattr(tracking, "curves", fail)
    return "W&B failed (BrokenPipeError); the run folder has all results"


def broken_summary(patch: pytest.MonkeyPatch, folder: RunDir) -> str:
    def fail(*_: Any) -> None:
        raise ValueError("strange value")

    patch.setattr(tracking, "dict", fail, raising=False)
    return "W&B failed (strange value); the run folder has all results"


SPOILERS = [broken_init, broken_folder, broken_log, broken_summary]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_failure_of_wandb_stops_nothing_and_is_reported_once(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch, RunDir], str],
) -> None:
    # W&B refuses an id that this process has open: those it failed on stay open to the end.
    config = tiny.config(seed=100 + SPOILERS.index(spoil))
    with monkeypatch.context() as patch:
        expected = spoil(patch, store.run(config.id))
        folder = execute(store, config)
    assert_complete(folder)
    (note,) = notes(folder)
    assert note.startswith(expected) and "\n" not in note


CONFIG = tiny.config()
ROW = MetricsRow(
    epoch=0,
    epsilon=4 / 255,
    lr=0.1,
    train_loss=1.5,
    train_clean_correct=30,
    train_images=40,
    val_loss=1.25,
    val_clean_correct=5,
    val_clean_images=20,
    val_adv_correct=1,
    val_adv_images=10,
    val_epsilon="8/255",
    seconds=2.0,
    images_per_s=20.0,
)


def test_the_next_run_of_a_worker_is_not_mixed_with_one_wandb_failed_on(store: Store) -> None:
    one, two = tiny.config(seed=201), tiny.config(seed=202)
    told: list[str] = []
    options: Any = {"mode": "offline", "group": "g", "on_failure": told.append}
    first = Tracker.start(one, store.run(one.id), **options)
    first.log([ROW])
    first.log([ROW, None])  # type: ignore[list-item]  fails, and the run stays open
    first.log([ROW, ROW])
    first.summarise({"delay": 1})
    first.finish()
    assert len(told) == 1
    second = Tracker.start(two, store.run(two.id), **options)
    second.log([ROW])
    second.summarise({"delay": 2})
    second.finish()
    (segment,) = segments(store.run(two.id))
    assert segment["id"] == two.id and segment["summary"]["delay"] == 2
    assert_holds_the_curves(segment, [ROW])


def test_none_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: Any) -> None:
        raise AssertionError("W&B was asked for")

    monkeypatch.setattr(wandb, "init", never)
    monkeypatch.setattr(wandb, "login", never)
    folder = execute(store, tiny.config(), tracking="none")
    assert_complete(folder)
    assert not folder.tracking.exists() and not list(store.root.rglob("*wandb*"))
    assert notes(folder) == []


def test_a_curve_point() -> None:
    point = curves(ROW, "linf")
    assert point["train/epsilon_255"] == pytest.approx(4)
    assert (point["val/clean"], point["val/adv"], point["train/clean"]) == (0.25, 0.1, 0.75)
    assert (point["train/loss"], point["val/loss"], point["train/lr"]) == (1.5, 1.25, 0.1)
    unattacked = curves(MetricsRow(**{**ROW, "epsilon": 0.0, "train_clean_correct": -1}), "linf")
    assert "train/clean" not in unattacked
    assert all(math.isfinite(value) for value in unattacked.values())


def test_secrets_stay_out_of_the_run_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    folder = execute(store, tiny.config(epochs=1))
    files: list[Path] = [path for path in folder.path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path for path in files if secret.encode() in path.read_bytes()] == []

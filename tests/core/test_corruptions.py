"""Common corruptions: the eleven types, one evaluation from a grid file to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from torch import nn

from analysis import Results, load
from analysis.command import Source, explain, tables
from core.config import ConfigError, EvalConfig, RobustAccuracy
from core.data import drawn
from core.data.corruptions import corrupt
from core.data.splits import Split
from core.errors import TeamError
from core.evaluation import corrupted
from core.evaluation.corrupted import KINDS, kinds_of, search
from core.machine.team import Team
from core.run.pipeline import Options, _summary, execute
from core.store.claims import Claim
from core.store.folders import RunDir, Store
from core.store.json_files import read_json
from core.store.records import overall_accuracy
from sweep.grid import parse_grid
from sweep.submit.submissions import manifest_row

SEVERITIES = range(1, 6)


def pictures(count: int, size: int) -> torch.Tensor:
    """Drawn images, enlarged."""
    images, _ = drawn.draw("plane", "test", seed=0)
    large = torch.nn.functional.interpolate(images[:count].float(), size=size, mode="bicubic")
    return large.clamp(0, 255).byte()


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Of the size that the parameters are made for."""
    found: NDArray[np.uint8] = pictures(3, 224).numpy()
    return found


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_changes_the_more_the_severer(kind: str, images: NDArray[np.uint8]) -> None:
    found = [[corrupt(image, kind, s, 7) for image in images] for s in SEVERITIES]
    assert all(new.shape == images[0].shape and new.dtype == np.uint8 for new in found[0])
    far = [np.mean([distance(*p) for p in zip(images, new, strict=True)]) for new in found]
    assert far[0] > 0.2 and far == sorted(far) and far[0] < far[4]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind: str, images: NDArray[np.uint8]) -> None:
    np.random.seed(4)
    first = corrupt(images[0], kind, 3, 1)
    following = np.random.random()
    np.random.seed(4)
    assert following == np.random.random(), "the global stream stays untouched"
    assert np.array_equal(first, corrupt(images[0], kind, 3, 1))
    random = {"shot_noise", "impulse_noise", "motion_blur", "snow", "elastic_transform"}
    assert np.array_equal(first, corrupt(images[0], kind, 3, 2)) == (kind not in random)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_stay_in_range(kind: str, value: int) -> None:
    """Also on tiny images, where shifts and kernels reach beyond the border."""
    flat = np.full((3, 16, 16), value, np.uint8)
    for severity in SEVERITIES:
        assert corrupt(flat, kind, severity, 0).dtype == np.uint8


def test_known_values() -> None:
    flat = np.full((3, 32, 32), 100, np.uint8)
    assert set(corrupt(flat, "brightness", 3, 0).flatten()) == {176}
    assert set(corrupt(flat, "contrast", 5, 0).flatten()) == {100}
    salted = corrupt(flat, "impulse_noise", 5, 0)
    share = np.isin(salted, (0, 255)).mean()
    assert share == pytest.approx(0.27, abs=0.03)
    assert (salted == 0).mean() == pytest.approx((salted == 255).mean(), abs=0.03)
    shot = corrupt(flat, "shot_noise", 1, 0) / 255
    assert shot.var() == pytest.approx(100 / 255 / 60, rel=0.1), "photons: variance x / 60"
    for kind in ("defocus_blur", "motion_blur", "zoom_blur"):
        assert set(corrupt(flat, kind, 5, 0).flatten()) == {100}, "the mean of one value is it"


def test_types_come_in_blocks() -> None:
    found = [kinds_of(index, 100, "one")[0] for index in range(100)]
    assert [found.count(kind) for kind in KINDS] == [9] * 10 + [10], "blocks of 9, the rest last"
    assert found == sorted(found, key=KINDS.index)
    assert [kinds_of(index, 5, "one")[0] for index in range(5)] == list(KINDS[:5])
    assert kinds_of(3, 100, "all") == KINDS


ELSEWHERE = "does not apply to attack"


class TestConfig:
    def test_identity(self) -> None:
        """Old evaluations keep their ids: this one is from before there were corruptions."""
        assert RobustAccuracy().id == "apgd_ce10-linf-test-ede0de8074924080"
        asked = EvalConfig.parse({"attack": "corruptions"})
        assert asked.id.startswith("corruptions3-test-")
        others = [{"severity": 4}, {"per_image": "all"}, {"split": "val"}, {"images": 9}]
        ids = {EvalConfig.parse({"attack": "corruptions", **more}).id for more in [{}, *others]}
        assert len(ids) == 5
        for more in [{}, *others]:
            one = EvalConfig.parse({"attack": "corruptions", **more})
            assert EvalConfig.parse(one.to_dict()) == one

    @pytest.mark.parametrize(
        ("wrong", "line"),
        [
            ({"severity": 6}, "severity: input should be less than or equal to 5, got 6"),
            ({"severity": 0}, "severity: input should be greater than or equal to 1, got 0"),
            ({"norm": "l2"}, f"norm: {ELSEWHERE} 'corruptions', remove it"),
            (
                {"epsilons": "0..4/255"},
                f"epsilons: {ELSEWHERE} 'corruptions', remove it",
            ),
            ({"steps": 5}, f"steps: {ELSEWHERE} 'corruptions', remove it"),
            ({"mode": "fast"}, f"mode: {ELSEWHERE} 'corruptions', remove it"),
            ({"per_image": "some"}, "per_image: input should be 'one' or 'all', got 'some'"),
            (
                {"attack": "apgd-ce", "severity": 4},
                f"severity: {ELSEWHERE} 'apgd-ce', remove it",
            ),
            (
                {"attack": "apgd-ce", "per_image": "all"},
                f"per_image: {ELSEWHERE} 'apgd-ce', remove it",
            ),
        ],
    )
    def test_bad(self, wrong: dict[str, Any], line: str) -> None:
        with pytest.raises(ConfigError) as error:
            EvalConfig.parse({"attack": "corruptions", **wrong})
        assert error.value.lines == (f"evals: {line}",)

    def test_a_miniature_keeps_it(self) -> None:
        asked = EvalConfig.parse({"attack": "corruptions", "severity": 2, "images": 9})
        small = asked.shrunk()
        assert (small.attack, small.severity) == ("corruptions", 2)
        assert EvalConfig.parse(small.to_dict()).id == small.id


class Bright(nn.Module):
    """Says 1 for images whose mean is above one half, else 0; nothing to train."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([1 - mean, mean], dim=1)


def split(count: int = 25) -> Split:
    images = pictures(count, size=32)
    return Split(images, (images.float().mean((1, 2, 3)) > 127.5).long())


def look(**more: Any) -> corrupted.Corrupted:
    given: dict[str, Any] = {"severity": 3, "batch": 7, "device": tiny.CPU} | more
    return search(Bright(), given.pop("split", None) or split(), **given)


def test_one_type_per_image_is_a_part_of_all() -> None:
    one, every = look(), look(per_image="all")
    tried = one.right >= 0
    assert tried.sum(1).tolist() == [1] * 25 and (every.right >= 0).all()
    assert np.array_equal(one.right[tried], every.right[tried])
    assert one.forwards == 25 and every.forwards == 25 * 11
    counts = every.counts()
    assert list(counts) == list(KINDS) and all(n == 25 for _, n in counts.values())
    assert counts["brightness"][0] < counts["contrast"][0], "contrast keeps the mean"
    assert np.array_equal(every.critical, (every.right == 1).all(1))
    assert one.critical.sum() == sum(right for right, _ in one.counts().values())


def test_neither_batch_nor_order_matters() -> None:
    first = look(per_image="all").right
    for batch in (1, 300):
        assert np.array_equal(look(per_image="all", batch=batch).right, first)


def test_a_team_sees_what_one_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, parts = look(), []
    with monkeypatch.context() as patch:
        patch.setattr(corrupted, "_joined", lambda *part: parts.append(part))
        for rank in (0, 1):
            look(team=Team(rank, 2))
    gathered = [[right for right, _, _ in parts], [tried for _, _, tried in parts]]
    monkeypatch.setattr(Team, "gather", lambda self, value: gathered.pop(0))
    whole = corrupted._joined(*parts[0])
    assert np.array_equal(whole.right, alone.right) and whole.forwards == alone.forwards


def test_a_part_that_is_missing_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for parts in ([np.full((2, 11), -1, np.int8)], [np.zeros((2, 11), np.int8)] * 2):
        monkeypatch.setattr(Team, "gather", lambda self, value, parts=parts: parts)
        with pytest.raises(TeamError, match="exactly once"):
            corrupted._joined(parts[0], Team(), 0)


def test_progress_ends_at_the_number_of_images() -> None:
    told: list[int] = []
    look(per_image="all", progress=told.append)
    assert told == sorted(told) and told[-1] == 25


ASKED = [
    {"epsilons": ["0", "1/255", "2/255"], "steps": 2},
    {"attack": "corruptions"},
    {"attack": "corruptions", "severity": 5, "per_image": "all", "images": 12},
]


@pytest.fixture
def done(store: Store) -> tuple[RunDir, list[EvalConfig]]:
    """A run of seconds, trained and evaluated."""
    run, asked = tiny.config(epsilon_g="2/255"), [EvalConfig.parse(item) for item in ASKED]
    claim = Claim.acquire(store.run(run.id))
    assert claim
    execute(run, asked, store, claim, Options(tracking="none", images=44))
    claim.release("done")
    return store.run(run.id), asked


def test_rows_carry_type_and_count(done: tuple[RunDir, list[EvalConfig]]) -> None:
    run, (_, one, every) = done
    stored = read_json(run.eval_json(one.id))
    assert stored is not None and stored["n"] == 44 and stored["forwards"] == 44
    assert [(row["type"], row["n"]) for row in stored["rows"]] == [(kind, 4) for kind in KINDS]
    assert {row["attack"] for row in stored["rows"]} == {"corruptions-3"}
    assert stored["expected"] is None and stored["backwards"] == 0
    with np.load(run.eval_flags(one.id)) as flags:
        assert flags["critical"].sum() == sum(row["correct"] for row in stored["rows"])
        assert flags["right"].shape == (44, 11) and len(flags["index"]) == 44
    told = _summary({"delay": 0, "setting": "fix"}, [one], tiny.config(epsilon_g="2/255"), run)
    assert told["test/corruptions-3/images"] == 44
    assert told["test/corruptions-3/accuracy"] == overall_accuracy(stored["rows"])
    stored = read_json(run.eval_json(every.id))
    assert stored is not None and stored["forwards"] == 12 * 11
    assert {row["n"] for row in stored["rows"]} == {12}


def test_tables_show_them_apart(done: tuple[RunDir, list[EvalConfig]], store: Store) -> None:
    run, (_, one, every) = done
    frame = load(store.root)
    metrics = frame.groupby("eval_id")["metric"].apply(list).to_dict()
    assert metrics[one.id] == metrics[every.id] == ["corrupted"]
    right = {
        item.id: sum(row["correct"] for row in read_json(run.eval_json(item.id))["rows"])  # type: ignore[index]
        for item in (one, every)
    }
    values = frame.set_index("eval_id")
    assert values["value"][one.id] == pytest.approx(100 * right[one.id] / 44)
    assert values["value"][every.id] == pytest.approx(100 * right[every.id] / (12 * 11))
    assert set(frame["state"]) == {"done"} and values["n"][one.id] == 44
    results = Results(store.root)
    assert not set(results.curves["eval_id"]) & {one.id, every.id}
    source = Source(results.values, results)
    main, *others = tables(source, significant=True).tables
    assert [header[1] for header in main.header] == ["clean", "adv", "expected"]
    assert [table.title for table in others] == ["Common corruptions"] * 2
    assert "eleven types of severity 3, one per image;" in others[0].notes[0]
    assert "eleven types of severity 5, all on every image;" in others[1].notes[0]
    assert "interval" in explain(source, "test_vit/fake/fix/corrupted")


def test_half_an_evaluation_is_partial(done: tuple[RunDir, list[EvalConfig]], store: Store) -> None:
    import analysis_store as made

    run, (_, one, _) = done
    stored = read_json(run.eval_json(one.id))
    assert stored is not None
    made.rewrite(run.eval_json(one.id), rows=stored["rows"][:-1])
    frame = load(store.root, index=False).set_index("eval_id")
    assert frame["state"][one.id] == "partial" and frame["reason"][one.id] == "40 of 44 images"


def test_from_a_grid_file(tmp_path: Path) -> None:
    text = (
        "name: x\nbase: {backbone: vit, dataset: cars}\n"
        "evals:\n- {}\n- {attack: corruptions, severity: 2}\n- attack: corruptions\n  severity: 9\n"
    )
    with pytest.raises(ConfigError, match="7: evals: severity: input should be less than or equal"):
        parse_grid(text, tmp_path / "x.yaml")
    (run,) = parse_grid(text.replace("9", "4"), tmp_path / "x.yaml").runs
    assert [item.name for item in run.evals] == ["apgd-ce-10", "corruptions-2", "corruptions-4"]
    row = manifest_row(run)
    assert len(row["evals"]) == 3

"""The verb pictures: a page on what two trained networks see, that agrees with their flags."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from browsing import Tab, chromium, unreadable
from PIL import Image

import epsweep
from analysis.report.confusion import confusions
from analysis.report.pictures import _usual
from core.config import EvalConfig, RunConfig, Strength
from core.store.folders import Store
from sweep import cli

GRID = {
    "name": "two",
    "base": {
        "backbone": "test_vit",
        "weights": "random",
        "dataset": "fake",
        "image_size": 16,
        "epochs": 1,
        "batch": 20,
        "epsilon_g": "2/255",
        "attack.steps": 1,
        "validation": {"steps": 1, "images": 10},
    },
    "grid": {"schedule": ["fix", "uniform"]},
    "evals": [
        {"epsilons": "0..4/255", "steps": 2, "images": 24},
        {"attack": "fmn", "steps": 4, "images": 16, "epsilons": "0..4/255"},
    ],
}
Call = Callable[..., tuple[object, str, str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store with two runs that are done, and their ids."""
    root = tmp_path_factory.mktemp("pictures") / "outputs"
    states = epsweep.launch(GRID, "debug", root, tracking="none", quiet=True)
    assert set(states.values()) == {"done"}
    return root, [*states]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(root: Path, *more: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["sweep", "pictures", *more, "--root", str(root)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, " ".join(told.err.split())

    return called


def pixels(address: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_the_page_agrees_with_flags_and_networks(
    store: tuple[Path, list[str]], call: Call, tmp_path: Path
) -> None:
    root, ids = store
    page = tmp_path / "a.html"
    code, told, _ = call(root, *ids, "--images", "4", "-o", str(page))
    text = page.read_text()
    assert code == 0 and told.split() == [str(page)]
    # Strict: no script, and no style but its own.
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in text
    assert "<script" not in text and " style=" not in text and "http" not in text.split("<main>")[1]
    # What each run keeps at each strength.
    flags = [epsweep.flags(run, "apgd", root)["critical"] for run in ids]
    for level in range(5):
        mine, its = (one > level for one in flags)
        counts = [mine & its, mine & ~its, ~mine & its, ~mine & ~its]
        row = "".join(f'<td class="number">{count.sum()}</td>' for count in counts)
        assert f"{level}/255</th>{row}" in text or (level == 0 and f">0</th>{row}" in text)
    # The first images, as they are and attacked, and what the networks say of them.
    images, labels = epsweep.load_images(ids[0], count=4, root=root)
    table = text.split("<tbody>")[1].split("</tbody>")[0]
    lines = re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
    assert len(lines) == 8
    for number, line in enumerate(lines):
        image, run = divmod(number, 2)
        model = epsweep.load_model(ids[run], root)
        x, y = images[image : image + 1], labels[image : image + 1]
        shown = [pixels(found) for found in re.findall(r'src="(data:[^"]+)"', line)]
        if run == 0:
            clean = np.moveaxis(x[0].numpy(), 0, -1)
            assert (shown.pop(0) == np.rint(255 * clean)).all()
        said = re.findall(r'<span class="(right|wrong)">class (\d+)</span>', line)
        before = int(model(x).argmax())
        assert said[0] == ("right" if before == int(y) else "wrong", str(before))
        for level, epsilon in enumerate(("1/255", "2/255", "4/255")):
            found = epsweep.attack(model, x, y, epsilon=epsilon, steps=2)
            change, attacked = shown[2 * level : 2 * level + 2]
            assert change.min() == 0 or change.max() == 255, "its largest change fills the range"
            right = said[1 + level][0] == "right"
            assert right == (int(flags[run][image]) > int(epsilon[0]))
            if not right and before == int(y) and said[level][0] == "right":  # broken just here
                exact = np.rint(255 * np.moveaxis(found[0].numpy(), 0, -1))
                assert (np.abs(attacked - exact) <= 1).all()
    # What is taken for what, by the flags of the attack.
    for run in flags:
        counts = [int((run > level).sum()) for level in (0, 1, 2, 4)]
        said = [f"{count} of 24 images right" for count in counts]
        for strength, count in zip(("clean", "1/255", "2/255", "4/255"), said, strict=True):
            assert f"<figcaption>{strength}: {count}</figcaption>" in text
    # The same again gives the same file.
    call(root, *ids, "--images", "4", "-o", str(tmp_path / "b.html"))
    assert (tmp_path / "b.html").read_bytes() == page.read_bytes()


def test_confusions_are_those_of_the_flags(store: tuple[Path, list[str]]) -> None:
    flags = {
        "label": np.array([0, 0, 1, 2]),
        "predicted": np.array([0, 0, 2, 2]),
        "correct": np.array([True, True, False, True]),
        "target": np.array([1, 2, 2, -1]),
        "distance": np.array([0.5, 2.0, 0.0, np.inf], np.float32),
    }
    strengths = [Strength.parse(text) for text in ("0", "1")]
    clean, weak = confusions(flags, strengths, strengths[1:])
    assert clean.counts.tolist() == [[2, 0, 0], [0, 0, 1], [0, 0, 1]] and clean.right == 3
    assert weak.counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]] and weak.strength == "255/255"
    assert weak.mistakes(5) == [(0, 1, 1), (1, 2, 1)]
    root, ids = store
    found = epsweep.flags(ids[0], "fmn", root)
    of = {name: found[name].to_numpy() for name in flags}
    five = [Strength.parse(f"{level}/255") for level in range(5)]
    for matrix, level in zip(confusions(of, five, five[4:]), (0, 4), strict=True):
        assert matrix.right == int((found["critical"] > level).sum())
    # Attacked at strengths 1 and 2: broken when clean, at 1, at 2, never; one of unknown class.
    flags = {
        "label": np.array([0, 0, 1, 2, 2]),
        "critical": np.array([0, 1, 2, 3, 1]),
        "taken": np.array([1, 2, 0, 2, -1], np.int32),
    }
    clean, weak, strong = confusions(flags, five[:3], five[1:3])
    assert clean.counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 2]] and clean.unknown == 0
    assert weak.counts.tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 1]] and weak.unknown == 1
    assert strong.counts.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1]] and strong.right == 1


def test_a_run_of_an_older_version_has_no_classes(
    store: tuple[Path, list[str]], call: Call, tmp_path: Path
) -> None:
    root, (first, _) = tmp_path / "outputs", store[1]
    shutil.copytree(store[0], root)
    for path in (Store(root).run(first).path / "evals").iterdir():
        if path.suffix == ".npz" and path.name.startswith("apgd"):
            flags = dict(np.load(path))
            assert flags.pop("taken").dtype == np.int32
            np.savez(path, **flags)
        elif path.name.startswith("fmn"):
            path.unlink()
    assert call(root, first, "--images", "1", "-o", str(tmp_path / "a.html"))[0] == 0
    text = (tmp_path / "a.html").read_text()
    assert "was made by an older version" in text and "Right images of each class" in text
    assert "<figcaption>" not in text


@pytest.mark.slow
def test_images_on_wandb(
    store: tuple[Path, list[str]], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ids = store
    monkeypatch.setenv("WANDB_MODE", "offline")
    page = tmp_path / "page.html"
    code, told, _ = call(root, ids[0], "--images", "2", "--wandb", "-o", str(page))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert code == 0 and told.splitlines()[1] == f"wandb sync {folder}"
    files = [*(folder / "files" / "media" / "images").rglob("*.png")]
    confusions = [file for file in files if file.name.startswith("confusion")]
    # Two clean images, and six changes and attacked ones; equal pictures share a file.
    assert 2 + 6 < len(files) - len(confusions) <= 2 + 12 and 1 <= len(confusions) <= 4
    assert "Kept and lost" not in page.read_text(), "there is no other run"
    assert not Store(root).run(ids[0]).tracking.exists(), "the run's own W&B run stays as it is"


@pytest.mark.parametrize(
    ("trained", "shown"), [("2/255", "1 2 4"), ("5/255", "2 5"), ("4/255", "2 4 5")]
)
def test_several_strengths_are_shown_on_any_grid(trained: str, shown: str) -> None:
    known = EvalConfig.parse({"epsilons": "0..5/255"}).epsilons  # type: ignore[attr-defined]
    config = RunConfig.parse({"backbone": "vit", "dataset": "fake", "epsilon_g": trained})
    assert [str(one) for one in _usual(known, [config])] == [f"{n}/255" for n in shown.split()]


def test_bad_input_is_one_line(store: tuple[Path, list[str]], call: Call, tmp_path: Path) -> None:
    root, (first, second) = tmp_path / "outputs", store[1]
    shutil.copytree(store[0], root)
    runs = Store(root).runs
    names = {"glyph": "dataset", "32": "image_size"}
    for value, name in names.items():  # as if judged on others
        shutil.copytree(runs / first, runs / f"other-{value}")
        config = runs / f"other-{value}" / "config.yaml"
        plain = yaml.safe_load(config.read_text()) | {name: yaml.safe_load(value)}
        config.write_text(yaml.safe_dump(plain))
    shutil.copytree(runs / first, runs / "undone")
    (runs / "undone" / "result.json").unlink()
    shutil.copytree(runs / first, runs / "bare")
    for path in (runs / "bare").glob("checkpoint*"):
        path.unlink()
    shutil.copytree(runs / first, runs / "unlike")
    record = next((runs / "unlike" / "evals").glob("apgd*.json"))
    flags = dict(np.load(record.with_suffix(".npz")))
    flags["label"] = flags["label"][::-1]
    np.savez(record.with_suffix(".npz"), **flags)
    shutil.copytree(runs / first, runs / "alone")
    for path in (runs / "alone" / "evals").iterdir():
        path.unlink()
    for arguments, said in (
        ([first, f"{second[:-3]}xyz"], f"xyz', did you mean '{second}'?"),
        ([first, first], "RUN: expected each run once"),
        ([first, "undone"], "undone: not done; see: sweep logs undone"),
        (["bare"], "bare: has no checkpoint.pt"),
        ([first, "other-glyph"], f"expected runs of one dataset, got fake ({first}) and glyph"),
        ([first, "other-32"], f"other-32: was evaluated on other images than {first}; expected"),
        ([first, "unlike"], f"unlike: was evaluated on other images than {first}; expected"),
        ([first, "alone"], "expected an attack that all the runs were evaluated by, got"),
        ([first, "--strength", "9/255"], "--strength 9/255: expected one of apgd_ce2-linf-test"),
        ([first, "--strength", "4"], "--strength: a strength lies in [0, 1], got 4, did you mean"),
        ([first, second, "--evaluation", "apgt"], "--evaluation apgt: no such evaluation"),
    ):
        code, _, err = call(root, *arguments)
        assert code == 2 and said in err, (arguments, err)
        assert "Traceback" not in err


@pytest.mark.slow
def test_a_reader_sees_it_anywhere(
    store: tuple[Path, list[str]], call: Call, tmp_path: Path
) -> None:
    root, ids = store
    page = tmp_path / "page.html"
    call(root, *ids, "--strength", "2/255", "4/255", "-o", str(page))
    with chromium() as browser:
        for scheme, width in (("dark", 390), ("light", 1280)):
            view = {"width": width, "height": 844}
            tab = Tab(browser, page, color_scheme=scheme, viewport=view)
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
            broken = "[...document.images].filter((one) => !one.naturalWidth).length"
            assert tab.page.evaluate(broken) == 0
            assert unreadable(tab.page) == [] and tab.wrong == []

"""What scripts and notebooks use: `import epsweep`, its documented examples, and their numbers."""

from __future__ import annotations

import doctest
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Trained, net, noise
from torch import Tensor, nn

import epsweep
from core.attack import examples
from core.config import ConfigError, RunConfig, evaluation, schedule, strength
from core.errors import DamagedError
from core.evaluation import minimal
from core.run import any_model
from core.store.folders import Store
from core.store.json_files import read_json
from core.training import epsilon_schedule, objectives
from epsweep import functions
from slurm import ids

ROOT = Path(__file__).parents[1]
BASE: dict[str, Any] = {
    "backbone": "test_vit",
    "weights": "random",
    "dataset": "fake",
    "image_size": 16,
    "epochs": 1,
    "batch": 50,
    "epsilon_g": "2/255",
    "schedule": "fix",
    "attack.steps": 1,
    "validation": {"steps": 1, "images": 10},
}
GRID: dict[str, Any] = {
    "name": "tiny",
    "base": BASE,
    "include": [
        {"optim": {"ema": 0.9}},
        {"backbone": "mini_resnet", "image_size": 32},
        {"protocol": "lora", "lora": {"targets": ["attn.qkv"], "rank": 2}},
    ],
    "evals": [{"epsilons": "0..2/255", "steps": 3}, {"attack": "corruptions", "severity": 1}],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store with three trained runs: with averaged weights, without BatchNorm, with LoRA."""
    root = tmp_path_factory.mktemp("python") / "outputs"
    states = epsweep.launch(GRID, "debug", root, tracking="none", quiet=True)
    assert set(states.values()) == {"done"}
    assert states == epsweep.status(GRID, root)
    assert [*epsweep.status(GRID, root, only="seed=0")] == [*states]
    return root, list(states)


@pytest.mark.parametrize(
    "module",
    [
        *(any_model, epsilon_schedule, evaluation, examples, ids, minimal, objectives, schedule),
        strength,
    ],
)
def test_examples_in_docstrings_show_what_the_functions_return(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_examples_of_runs_and_results(
    runs: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ids = runs
    monkeypatch.setenv("EPSWEEP_ROOT", str(root))
    monkeypatch.chdir(tmp_path)
    names = {"epsweep": epsweep, "grid": GRID, "run": ids[0]}
    shown = doctest.testmod(functions, extraglobs=names)
    assert shown.attempted > 12 and not shown.failed


def test_importing_it_is_cheap_and_finds_our_packages(tmp_path: Path) -> None:
    """Whatever packages of the same names lie where a notebook stands."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise RuntimeError('not this one')")
    script = (
        "import sys, epsweep; assert not {'torch', 'pandas', 'core', 'yaml'} & {*sys.modules};"
        "assert 'attack' in dir(epsweep); epsweep.ConfigError; print(sys.modules['core'].__file__)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.stdout.strip() == str(ROOT / "core" / "__init__.py"), told.stderr
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        epsweep.lod  # noqa: B018


def test_every_name_is_there() -> None:
    assert {name for name in epsweep.__all__ if getattr(epsweep, name)} == {*epsweep.__all__}


def test_a_loaded_model_has_the_numbers_of_its_run(runs: tuple[Path, list[str]]) -> None:
    """Evaluated anew on its images it gives the same counts, for every image."""
    root, ids = runs
    for run in ids:
        model = epsweep.load_model(run, root)
        assert not model.training
        images, labels = epsweep.load_images(run, root=root)
        (name,) = (path.stem for path in Store(root).run(run).evals.glob("apgd*.json"))
        found = epsweep.evaluate(model, (images, labels), epsilons="0..2/255", steps=3)
        record = read_json(Store(root).run(run).eval_json(name)) or {}
        assert [row["correct"] for row in found.rows] == [r["correct"] for r in record["rows"]]
        flags = epsweep.flags(run, "apgd", root)
        assert flags["critical"].tolist() == found.arrays["critical"].tolist()
        assert (flags["epsilon"] == "").sum() == found.rows[-1]["correct"]
    types = epsweep.flags(ids[0], "corrupt", root)
    assert len(types.columns) == 2 + 1 + 11 and types["contrast"].isin([-1, 0, 1]).all()
    with pytest.raises(ConfigError, match="expected one of 2"):
        epsweep.flags(ids[0], root=root)
    frame = epsweep.load(root, GRID)
    assert set(frame.run_id) == {*ids} and set(frame.state) == {"done"}
    assert len(epsweep.epochs(root)) == 3 and len(epsweep.curves(root)) == 9


def test_an_export_loads_in_plain_timm(runs: tuple[Path, list[str]], tmp_path: Path) -> None:
    """And gives the logits of the run's network, adapters and all, once the input is normalised."""
    import timm

    root, ids = runs
    for number, run in enumerate(ids):
        card = epsweep.export(run, tmp_path / str(number), root)
        assert json.loads((tmp_path / str(number) / "card.json").read_text()) == card
        plain = eval(card["load"], {"timm": timm, "torch": torch}).eval()
        model = epsweep.load_model(run, root)
        x, _ = epsweep.load_images(run, count=8, root=root)
        mean, std = (torch.tensor(card["pixels"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))
        with torch.no_grad():
            torch.testing.assert_close(plain((x - mean) / std), model(x), rtol=1e-4, atol=1e-4)
    assert len(card["evaluations"]) == 2 and card["backbone"]["licence"] is None
    with pytest.raises(ConfigError, match="expected an empty or new folder"):
        epsweep.export(ids[0], tmp_path / "0", root)


def test_the_verb_and_what_cannot_be_loaded(
    call: Any, runs: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, ids = runs
    code, said, _ = call("export", ids[0], "--to", str(tmp_path / "to"), "--root", str(root))
    assert code == 0 and "timm.create_model('local-dir:" in said
    assert call("export", "nothing", "--to", str(tmp_path / "x"), "--root", str(root))[0] == 2
    with pytest.raises(ConfigError, match="no run 'nothing'"):
        epsweep.load_model("nothing", root)
    config = RunConfig.parse({"backbone": "test_vit", "dataset": "fake", "epochs": 2})
    Store(tmp_path).run(config.id).write_config(config.to_dict())
    with pytest.raises(ConfigError, match="has no checkpoint"):
        epsweep.load_model(config.id[:-4], tmp_path)
    whole = Store(root).run(ids[0]).checkpoint
    content = whole.read_bytes()
    whole.write_bytes(content[:1000])
    with pytest.raises(DamagedError, match=r"checkpoint\.pt is damaged"):
        epsweep.load_model(ids[0], root)
    whole.write_bytes(content)
    with pytest.raises(ConfigError, match="split: expected one of train, val, test, got 'tst'"):
        epsweep.load_images(ids[0], "tst", root=root)


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("load", (3,), "root: expected a folder, got 3"),
        ("load", (None, 3), "grid: expected a file, the name of a grid or a mapping, got int"),
        ("launch", ({"name": "a", "seeds": {np.int64(1): 2}},), "lists and mappings, got int64"),
        ("launch", (GRID, "debug", None), "tracking: expected one of auto, .*, got 'nil'"),
        ("status", ({},), r"grid\.yaml: name: expected lower-case"),
        ("flags", (3,), "run: expected the id of a run or its beginning, got 3"),
        ("load_model", ("RUN",), "device: warp: Expected one of"),
        (
            "load_images",
            ("RUN", "test", -1),
            "count: expected a whole number of at least 1, got -1",
        ),
        ("export", ("RUN", None), "to: expected a folder, got None"),
    ],
)
def test_a_wrong_argument_is_named(
    name: str,
    arguments: tuple[Any, ...],
    line: str,
    runs: tuple[Path, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EPSWEEP_ROOT", str(runs[0]))
    given = [runs[1][0] if item == "RUN" else item for item in arguments]
    more = {"launch": {"tracking": "nil"}, "load_model": {"device": "warp"}}.get(name, {})
    with pytest.raises(ConfigError, match=line) as told:
        getattr(epsweep, name)(*given, **more)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", "4/255"), ("l2", 0.3), ("l1", 2)])
def test_an_attack_breaks_what_an_evaluation_counts(
    trained: Trained, norm: str, epsilon: float | str
) -> None:
    """In the ball and in [0, 1]; the model comes back as it was."""
    x, y = trained.batch(0, 48)
    trained.net.train()
    adversarial = epsweep.attack(trained.net, x, y, epsilon=epsilon, norm=norm, steps=5)
    assert trained.net.training and next(trained.net.parameters()).requires_grad
    trained.net.eval()
    found = epsweep.evaluate(
        trained.net, (x, y), norm=norm, epsilons=[0, epsilon], steps=5, batch=16
    )
    with torch.no_grad():
        right = trained.net(adversarial).argmax(1) == y
    assert right.tolist() == (found.arrays["critical"] == 2).tolist()
    assert 0 < found.rows[1]["correct"] < found.rows[0]["correct"]
    order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[norm]
    radius = 4 / 255 if norm == "linf" else float(epsilon)
    size = torch.linalg.vector_norm((adversarial - x).flatten(1), order, dim=1)
    assert size.max() <= radius * (1 + 1e-4) and adversarial.aminmax()[0] >= 0
    each = torch.full((48,), radius, dtype=torch.float64)
    same = epsweep.attack(trained.net, x, y, epsilon=each, norm=norm, steps=5)
    torch.testing.assert_close(same, adversarial)


def test_data_may_be_arrays_tensors_or_batches() -> None:
    split, model = noise(24), net().eval()
    how: Any = {"epsilons": ["0", "8/255"], "steps": 2}
    floats = split.images.float() / 255
    parts = [(floats[i : i + 10], split.labels[i : i + 10]) for i in (0, 10, 20)]
    forms = [
        split,
        (split.images.numpy(), split.labels.numpy().astype(np.uint8)),
        [floats.double(), split.labels],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(floats, split.labels), 7),
        parts,
    ]
    found = [epsweep.evaluate(model, form, **how).accuracy for form in forms]
    assert found == [found[0]] * len(forms) and set(found[0]) == {"0", "8/255"}
    few = epsweep.evaluate(model, split, images=5, attack="corruptions", per_image="all")
    assert few.n == 5 and len(few.accuracy) == 11


X, Y = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1)[:, :10]


@pytest.mark.parametrize(
    ("x", "y", "options", "line"),
    [
        (X * 255, Y, {}, r"expected images in \[0, 1\]"),
        (X[0], Y, {}, r"x: expected a float tensor \[B, C, H, W\], got float32 \[3, 8, 8\]"),
        (X, Y.float(), {}, r"y: expected an int64 tensor \[4\], got float32 \[4\]"),
        (X, Y + 10, {}, "y: expected labels from 0 to 9, got 10"),
        (X, Y, {"epsilon": 4}, "did you mean 4/255"),
        (X, Y, {"epsilon": torch.ones(3)}, r"epsilon: expected one number or a tensor \[4\]"),
        (X, Y, {"norm": "l3"}, "norm: unknown norm 'l3'"),
        (X, Y, {"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        (X, Y, {"steps": 2.5}, "steps: expected a whole number of at least 1, got 2.5"),
        (X, Y, {"norm": None}, "norm: unknown norm 'None'"),
        (X, Y, {"model": len}, r"model: expected a torch.nn.Module, got builtin_function"),
        (X.half(), Y, {}, r"model: fails on images float16 \[4, 3, 8, 8\]: "),
    ],
)
def test_a_wrong_attack_says_what_was_expected(
    x: Tensor, y: Tensor, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        epsweep.attack(**{"model": net(), "x": x, "y": y, "epsilon": "4/255", **options})


@pytest.mark.parametrize(
    ("model", "data", "options", "line"),
    [
        (net(), (X * 255, Y), {}, r"expected images in \[0, 1\]"),
        (net(), (X, Y[:2]), {}, "labels: expected 4, got 2"),
        (net(), (X, X[:, 0, 0, 0]), {}, r"labels: expected integers \[N\], got float32 \[4\]"),
        (net(), [], {}, "expected at least one batch"),
        (net(), [(X, Y), (X[..., 1:], Y)], {}, r"one shape, got \[3, 8, .\] and \[3, 8, .\]"),
        (net(), [(X[0], 1)], {}, r"labels \[B\], got float32 \[3, 8, 8\] and int64 \[\]"),
        (net(), [{"x": X}], {}, r"data: expected batches \(images, labels\), got dict"),
        (net, (X, Y), {}, "model: expected a torch.nn.Module, got function"),
        (net(), (X, Y), {"batch": "8"}, "batch: expected a whole number of at least 1, got '8'"),
        (net(), 5, {}, r"expected \(images, labels\) or an iterable of them, got int"),
        (nn.Conv2d(3, 1, 3), (X, Y), {}, r"model: expected logits \[1, classes\]"),
        (net(), (X, Y), {"step": 3}, r"evaluate: step: unknown"),
        (net(), (X, Y), {"split": "val"}, "split: does not apply"),
        (net(), (X, Y), {"attack": "corruptions"}, "expected images as uint8"),
        (net(3), (X, Y), {"attack": "autoattack"}, "at least 4 classes"),
        (Detached(), (X, Y), {}, "logits without a gradient"),
        (Detached(), (X, Y), {"attack": "fmn"}, "logits without a gradient"),
    ],
)
def test_a_wrong_evaluation_says_what_was_expected(
    model: nn.Module, data: Any, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        epsweep.evaluate(model, data, **options)


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/python.md in their order, then the notebook on the same store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    space: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, "docs/python.md", "exec"), space)
    assert space["card"]["load"] == "timm.create_model('local-dir:exported', pretrained=True)"
    notebook = json.loads((ROOT / "examples" / "results.ipynb").read_text("utf-8"))
    assert not [cell for cell in notebook["cells"] if cell.get("outputs")]
    for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    import matplotlib.pyplot as plt

    assert [len(plt.figure(number).axes) for number in plt.get_fignums()] == [1, 3]
    plt.close("all")


@pytest.mark.slow
def test_the_example_script_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["python_api.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "python_api.py"), run_name="__main__")
    assert "right of 20" in capfd.readouterr().out

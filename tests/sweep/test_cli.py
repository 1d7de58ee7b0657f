"""The command line as a user meets it: bad input is one line and exit 2, nothing is written."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import analysis_store
import pytest
from PIL import Image

from core.store.folders import Store
from sweep.grid import load_grid

Call = Callable[..., tuple[int, str, str]]

TINY = """
name: tiny
base: {weights: random, image_size: 32, epochs: 2, batch: 50, attack.steps: 1}
grid:
  backbone: [mini_convnext]
  dataset: [DATASET]
  epsilon_g: [2/255]
  schedule: [fix]
evals:
  - {epsilons: 0..2/255, steps: 1, images: 20}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Callable[..., str]:
    """A tiny grid file with some of its text replaced."""

    def write(*changes: tuple[str, str], dataset: str = "fake") -> str:
        text = TINY.replace("DATASET", dataset)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return str(path)

    return write


def folder_dataset(path: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """A real image folder: two 40 x 30 pictures per class and split."""
    for split in ("train", "val", "test"):
        for name in classes:
            (path / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (40, 30), (90 * i, 10, 200)).save(path / split / name / f"{i}.jpg")
    return path


BAD_GRIDS = [
    (("epochs: 2", "epoch: 2"), "tiny.yaml:3: epoch: unknown field", "epochs"),
    (("epochs: 2", "epochs: two"), "tiny.yaml:3: ", "two"),
    (("epochs: 2", "epochs: 2, epochs: 3"), "given twice", "epochs"),
    (("[fix]", "[{kind: two_hinge, T1: 2, T2: 1}]"), "T1 <= T2", "T1=2"),
    (("[fix]", "[{kind: two_hinge, T1: 0, T2: 9}]"), "<= 2 epochs", "T2=9"),
    (("[2/255]", "[-2/255]"), "a strength lies in [0, 1]", "-2/255"),
    (("[2/255]", "[4]"), "did you mean 4/255", "[0, 1]"),
    (("mini_convnext", "resnet5O"), "unknown backbone 'resnet5O'", "resnet50"),
    (("[fake]", "[fak]"), "unknown dataset 'fak'", "fake"),
    (("[fix]", "[]"), "schedule", "tiny.yaml:8"),
    (("[fix]", "[fixed]"), "unknown schedule 'fixed'", "fix"),
]


@pytest.mark.parametrize(("change", "expected", "hint"), BAD_GRIDS)
def test_a_bad_grid_is_one_line_and_writes_nothing(
    call: Call,
    grid: Callable[..., str],
    tmp_path: Path,
    change: tuple[str, str],
    expected: str,
    hint: str,
) -> None:
    root = tmp_path / "root"
    code, out, err = call("launch", grid(change), "--root", str(root))
    assert code == 2
    assert "Traceback" not in err + out
    matching = [line for line in err.splitlines() if expected in line]
    assert len(matching) == 1, err
    assert hint in matching[0]
    assert not root.exists()


def test_every_problem_of_a_grid_is_told_at_once(call: Call, grid: Callable[..., str]) -> None:
    code, _, err = call("plan", grid(("epochs: 2", "epoch: 2"), ("[2/255]", "[3]")))
    assert code == 2
    assert len(err.splitlines()) == 2


def test_missing_data_is_found_before_anything_is_written(
    call: Call, grid: Callable[..., str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    code, _, err = call("launch", grid(dataset="cars"), "--root", str(root))
    assert code == 2
    assert "dataset cars" in err
    assert "no such folder" in err
    assert len(err.splitlines()) == 1
    assert not root.exists()


def test_class_folders_that_differ_and_empty_splits_are_named(
    call: Call, grid: Callable[..., str], tmp_path: Path
) -> None:
    data = folder_dataset(tmp_path / "pets")
    (data / "val" / "cat").rename(data / "val" / "cow")
    code, _, err = call("launch", grid(dataset=str(data)), "--root", str(tmp_path / "root"))
    assert code == 2
    assert "'cat' is missing there" in err
    (data / "val" / "cow").rename(data / "val" / "cat")
    for name in ("cat", "dog"):
        for file in (data / "test" / name).iterdir():
            file.unlink()
    code, _, err = call("launch", grid(dataset=str(data)), "--root", str(tmp_path / "root"))
    assert code == 2
    assert "expected images, found none" in err


@pytest.mark.slow
def test_an_unreadable_image_stops_the_run_before_training(
    call: Call, grid: Callable[..., str], tmp_path: Path
) -> None:
    data = folder_dataset(tmp_path / "pets")
    broken = data / "train" / "dog" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    root = str(tmp_path / "root")
    path = grid(dataset=str(data))
    code, out, _ = call("launch", path, "--root", root, "--tracking", "none")
    assert code == 1
    assert "1 failed" in out
    code, out, _ = call("status", path, "--root", root, "--json")
    (run,) = json.loads(out)["runs"]
    assert run["state"] == "failed"
    assert str(broken) in run["reason"]
    assert run["epoch"] == 0
    code, out, _ = call("logs", run["id"][:20], "--root", root)
    assert code == 0
    assert "unreadable image" in out


def test_a_root_that_cannot_be_written_is_one_line(
    call: Call, grid: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = call("launch", grid(), "--root", str(tmp_path / "file" / "root"))
    assert code == 2
    assert "cannot write there" in err
    assert len(err.splitlines()) == 1


def test_unknown_filters_and_grids_name_the_nearest(call: Call, grid: Callable[..., str]) -> None:
    path = grid()
    for arguments, hint in (
        (("plan", path, "--only", "backbon=swin"), "backbone"),
        (("plan", path, "--only", "state=don"), "done"),
        (("plan", "epsilon_scheduling.yml"), "epsilon_scheduling"),
        (("launch", path, "--profile", "locl"), "local"),
        (("logs", "nothing"), "nothing"),
    ):
        code, _, err = call(*arguments)
        assert code == 2, arguments
        assert hint in err
        assert "Traceback" not in err


def test_what_only_some_runs_share_is_not_named(call: Call) -> None:
    _, out, _ = call("plan", "epsilon_scheduling")
    assert "150 runs for 180 combinations: 150 new" in out
    _, out, _ = call("plan", "epsilon_scheduling", "--only", "backbone=swin")
    assert "25 runs: 25 new" in out


def test_plan_lists_the_full_benchmark_without_its_data(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("plan", "epsilon_scheduling", "--json", "--root", str(tmp_path / "none"))
    assert code == 0
    plan = json.loads(out)
    assert plan["counts"] == {"new": 150}
    settings = [run["setting"] for run in plan["runs"]]
    assert (settings.count("fix"), settings.count("sched"), settings.count("standard")) == (
        60,
        60,
        30,
    )
    assert len({run["id"] for run in plan["runs"]}) == 150
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("tables demo --format md", "--format: unknown value 'md' (known: markdown, csv, latex"),
        ("status demo --sort nam", "--sort: unknown value 'nam', did you mean 'name'?"),
        # The second ones are the words of Typer 0.16.
        (
            "launch demo --max-parallel 0",
            "--max-parallel: expected a number greater than or|0 is not in the range x>=1",
        ),
        (
            "launch demo --max-parallel x",
            "--max-parallel: expected a valid integer, got 'x'|'x' is not a valid integer range",
        ),
        (
            "suggest-backbone --budget -1",
            "--budget: expected a number greater than or equal to 0|-1.0 is not in the range x>=0",
        ),
        ("status demo --wach", "unknown option '--wach', did you mean '--watch'?"),
        ("lanch demo", "sweep: unknown command 'lanch', did you mean 'launch'?"),
        ("data mak", "sweep data: unknown command 'mak', did you mean 'make'?"),
        ("plan", "sweep plan: missing argument 'GRID'; see: sweep plan -h"),
        ("tables demo more", "got unexpected extra argument"),
        ("plan demo --only", "option '--only' requires an argument"),
        ("weights fetch", "sweep weights fetch: expected names of backbones"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(call: Call, words: str, told: str) -> None:
    code, out, err = call(*words.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("sweep") and any(words in err for words in told.split("|"))


def test_help_and_plan_import_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from sweep import cli; sys.argv = ['sweep', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "bad = {'torch', 'pandas', 'timm', 'wandb'} & set(sys.modules); assert not bad, bad"
    )
    environ = os.environ | {"EPSWEEP_ROOT": str(tmp_path)}
    for arguments in (["--help"], ["plan", "demo"], ["status", "demo"]):
        subprocess.run(
            [sys.executable, "-c", code, *arguments], check=True, env=environ, capture_output=True
        )


def test_tables_without_results_say_what_is_missing_and_exit_3(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("tables", "smoke", "--root", str(tmp_path / "none"))
    assert code == 3
    assert "missing" in out
    assert "nan" not in out
    code, out, _ = call("tables", "t1_t2", "--root", str(tmp_path / "none"))
    assert code == 3
    assert out.startswith("**Table 7"), "a grid's own tables come by default"


def test_published_numbers_come_out_as_they_went_in(call: Call, tmp_path: Path) -> None:
    csv = tmp_path / "mine.csv"
    csv.write_text(
        "model,dataset,epsilon_g,setting,metric,value\n"
        "ViT,Cars,4,fix,clean,12.345\nViT,Cars,4,sched,clean,73.40\n"
    )
    _, out, err = call("tables", "--from", str(csv), "--table", "1", "--format", "csv")
    assert "12.35" in out, "rounded half up"
    assert "73.40" in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_figures_and_report_lie_in_the_folder_of_the_grid_not_of_its_file(
    call: Call, grid: Callable[..., str], tmp_path: Path
) -> None:
    file = grid(("name: tiny", "name: other"))
    (run,) = load_grid(file).runs
    analysis_store.finish(tmp_path / "outputs", run.config, run.evals[0])
    for verb in ("figures", "report"):
        code, out, err = call(verb, file)
        assert code == 0, err
        assert {Path(line).parent.name for line in out.splitlines()} == {"other"}


def test_a_command_that_is_proposed_works_when_pasted(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a file of one's own, also in another store, and for a shipped grid by its name."""
    (tmp_path / "my grids").mkdir()
    (tmp_path / "my grids" / "one.yaml").write_text(TINY.replace("DATASET", "fake"))
    monkeypatch.chdir(tmp_path)
    mine = load_grid("my grids/one.yaml")
    for store in (Store.at(), Store.at("another")):
        words = shlex.split(mine.command("status", store, "--json"))
        code, out, err = call(*words[1:])
        assert (words[0], code, err) == ("sweep", 0, "")
        assert json.loads(out)["name"] == "tiny"
    assert words[3:5] == ["--root", str(tmp_path / "another")]
    assert load_grid("smoke").command("status", Store.at()) == "sweep status smoke"


def test_tables_need_one_source(call: Call) -> None:
    code, _, err = call("tables")
    assert code == 2
    assert "expected either a GRID or --from" in err


def test_doctor_finds_missing_data_and_a_writable_store(
    call: Call, grid: Callable[..., str], tmp_path: Path
) -> None:
    code, out, _ = call("doctor", grid(dataset="cars"), "--root", str(tmp_path), "--json")
    found = {check["name"]: check["verdict"] for check in json.loads(out)}
    assert code == 1
    assert found["inputs"] == "fail"
    assert found["results"] in ("ok", "warn")
    assert found["torch here"] == "ok"


def test_packages_of_the_users_project_do_not_stand_in_for_ours(
    grid: Callable[..., str], tmp_path: Path
) -> None:
    """Everyday names, in the folder where the user stands and on PYTHONPATH."""
    project = tmp_path / "project"
    for name in ("core", "sweep", "slurm", "analysis"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"raise SystemExit('of the user: {name}')")
    start = "import epsweep; epsweep.main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", start, "plan", grid(), "--json"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": f"{project}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["runs"]) == 1


@pytest.mark.parametrize("name", ["EPSWEEP_HEARTBEAT_S", "EPSWEEP_STALE_S"])
@pytest.mark.parametrize("value", ["abc", "0", "-3", "nan", "inf", "1e999", "10 s"])
def test_a_variable_of_ours_that_is_no_number(
    call: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    code, out, err = call("doctor", "--help")
    expected = f"{name}: must be a number of seconds above 0, got '{value}'\n"
    assert (code, out, err) == (2, "", expected)


def test_a_patience_shorter_than_a_heartbeat(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPSWEEP_STALE_S", "5")
    code, _, err = call("plan", "demo")
    assert code == 2 and err.startswith("EPSWEEP_STALE_S: must be at least EPSWEEP_HEARTBEAT_S")


def test_usage_has_one_pair_of_brackets_around_an_argument(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    for verb in (["tables"], ["doctor"], ["weights", "list"], ["plan"]):
        usage = call(*verb, "--help")[1].strip().splitlines()[0]
        # Before 0.17 or so, Typer has none.
        assert re.search(r" [\[{]?(GRID|NAME)[\]}]?(\.\.\.)?$", usage.strip()), usage

"""README and docs tell the truth: grids, commands, options, links, and where things are.

`python tests/test_docs.py` writes the tree in docs/internals.md anew from the packages' docstrings.
"""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config import fields_of

ROOT = Path(__file__).resolve().parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
TREE = DOCS / "internals.md"
PAGES = [README, *sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BEGIN, END = "<!-- tree -->\n", "<!-- end of tree -->\n"
EXAMPLE = re.compile(r"```yaml\n(name: .*?)```", re.S)


def read(path: Path) -> str:
    return path.read_text("utf-8")


def first_sentence(path: Path) -> str:
    """What a package says it is: the first sentence of its docstring."""
    said = " ".join((ast.get_docstring(ast.parse(read(path))) or "").split())
    return re.split(r"(?<!et al)\.(?: |$)", said, maxsplit=1)[0]


def tree() -> str:
    """One line per folder of code."""
    packages = [ROOT / name for name in ("epsweep", "core", "sweep", "slurm", "analysis")]
    rooms = sorted({path.parent for package in packages for path in package.rglob("__init__.py")})
    lines = ["```text"]
    for room in rooms:
        name = f"{room.relative_to(ROOT)}/"
        lines.append(f"{name:<24} {first_sentence(room / '__init__.py')}")
    return "\n".join([*lines, "```"]) + "\n"


def test_the_tree_is_the_tree() -> None:
    text = read(TREE)
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == tree(), "run: python tests/test_docs.py"


def test_the_readme_is_short_and_opens_with_a_picture() -> None:
    lines = read(README).splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:30])
    assert all(len(read(page).splitlines()) <= 300 for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", read(page)):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {(ROOT / name).resolve() for name in re.findall(r"\]\((docs/[\w.]+)", read(README))}
    assert linked == set(DOCS.glob("*.md"))


def test_every_option_is_documented() -> None:
    from core.config import RunConfig
    from core.config.evaluation_kinds import KINDS
    from core.config.schedule import PRESETS

    names = {name.rpartition(".")[2] for name in fields_of(RunConfig)}
    names |= {name for kind in KINDS.values() for name in kind.model_fields}
    words = set(re.findall(r"\w+", read(DOCS / "options.md") + read(DOCS / "evaluations.md")))
    assert {*names, *PRESETS} <= words, {*names, *PRESETS} - words


# grid.md: 3 backbones x 2 datasets x 3 seeds, each once standard and 2 strengths x 3 schedules
@pytest.mark.parametrize(
    ("page", "runs"),
    [(README, 2 * 2 * 3), (DOCS / "start.md", 2 * 3), (DOCS / "grid.md", 3 * 2 * 3 * (1 + 2 * 3))],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_example_grids_are_valid(page: Path, runs: int, tmp_path: Path) -> None:
    from sweep.grid import load_grid

    (example,) = EXAMPLE.findall(read(page))
    assert yaml.safe_load(example)["name"]
    (tmp_path / "example.yaml").write_text(example)
    assert len(load_grid(tmp_path / "example.yaml").runs) == runs


def test_what_contributing_names_is_there() -> None:
    """Files and folders, and the registries to add a line to."""
    text = read(ROOT / "CONTRIBUTING.md")
    paths = re.findall(r"`((?:core|sweep|slurm|analysis|tests|grids)/[\w./]+)`", text)
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists(), path
    for place, name in (
        ("core/training/schedules.py", "KINDS"),
        ("core/training/objectives.py", "KINDS"),
        ("core/datasets/read.py", "READERS"),
    ):
        assert f"\n{name}: " in read(ROOT / place) and f"`{name}`" in text


def test_the_example_of_a_profile_shows_every_key_of_a_cluster() -> None:
    from slurm.profile import Profile, read_profile

    file = ROOT / "examples" / "cluster.yaml"
    shown = read_profile(file)
    left_out = {"name", "workers", "parameters"}  # its file's, those of local workers, of plug-ins
    assert shown.model_fields_set >= {*Profile.model_fields} - left_out


def test_every_state_and_class_of_failure_has_its_advice() -> None:
    from sweep.state.status import State
    from sweep.state.triage import FAILURES, PAUSES

    rows = re.findall(r"^\| `(\w+)` \|", read(DOCS / "troubleshooting.md"), re.M)
    assert set(rows) == {*State, *FAILURES, *PAUSES}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in its table of contents, and every anchor is there."""
    built = tmp_path / "site"
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(built)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {page.stem for page in DOCS.glob("*.md")} <= {p.stem for p in built.glob("docs/*.html")}


def test_the_example_of_own_images_is_that_of_the_first_page(tmp_path: Path) -> None:
    """docs/start.md shows the grid that the example writes, but for the folder."""
    from sweep.grid import load_grid

    script = ROOT / "examples" / "own_images.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    (example,) = EXAMPLE.findall(read(DOCS / "start.md"))
    written = yaml.safe_load((tmp_path / "shapes.yaml").read_text())
    assert written.pop("grid")["dataset"] == [str(tmp_path / "shapes")]
    assert written == {k: v for k, v in yaml.safe_load(example).items() if k != "grid"}
    assert len(load_grid(tmp_path / "shapes.yaml").runs) == 6
    assert len([*tmp_path.glob("shapes/*/*/*.png")]) == 240


def test_every_command_is_documented_and_the_other_way_round() -> None:
    from typer.main import get_command

    from sweep.cli import app

    shown = set(re.findall(r"^\| `sweep ([a-z-]+)", read(DOCS / "commands.md"), re.M))
    assert shown == set(get_command(app).commands)  # type: ignore[attr-defined]


def commands() -> list[str]:
    """Every command line of ours in a code block, and those in the table of the paper's tables."""
    blocks = "\n".join("\n".join(re.findall(r"```sh\n(.*?)```", read(p), re.S)) for p in PAGES)
    inline = re.findall(r"`(sweep [a-z-]+ [^`]+)`", read(DOCS / "paper.md"))
    found = re.findall(r"(?:^|; do )(sweep [^#;\n]+)", blocks, re.M) + inline
    return list(dict.fromkeys(line.strip() for line in found))


@pytest.mark.parametrize("line", commands())
def test_a_command_parses(line: str) -> None:
    """Verb, arguments and options; a grid by its name has to be one of ours."""
    from typer.main import get_command

    from sweep.cli import app, spread_only
    from sweep.grid import load_grid

    _, *words = spread_only(shlex.split(line))
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    parsed = command.make_context("sweep", list(words)).params
    names = parsed.get("grids") or [parsed.get("grid")]
    for name in names if isinstance(names[0], str) else names[0] or ():
        if not name.startswith("$") and not name.endswith(".yaml"):
            assert load_grid(name).runs


def test_the_way_to_every_table_is_shown() -> None:
    """A shipped grid that feeds each of the paper's tables, but for Table 5, which needs no run."""
    from sweep.grid import load_grid

    shown = [re.findall(r"--table (\d+)", line) for line in commands()]
    assert {int(number) for found in shown for number in found} == {*range(1, 13)} - {5}
    for line, numbers in zip(commands(), shown, strict=True):
        if numbers:
            assert set(numbers) <= set(load_grid(line.split()[2]).tables)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = read(ROOT / "Makefile")
    for target in ("demo", "test", "slurm-test", "check", "format", "contracts", "docs"):
        assert re.search(rf"^{target}:", makefile, re.M)
    assert "make demo" in read(README) and "make test" in read(README)


if __name__ == "__main__":
    old = read(TREE)
    head, rest = old[: old.index(BEGIN) + len(BEGIN)], old[old.index(END) :]
    TREE.write_text(head + tree() + rest, "utf-8")

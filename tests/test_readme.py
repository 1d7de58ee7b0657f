"""The README tells the truth: its tree, its grid, its commands. `python tests/test_readme.py`
writes the tree anew from the modules' docstrings."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config import fields_of

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- tree -->\n", "<!-- end of tree -->\n"


def first_sentence(path: Path) -> str:
    """What a file says it is: its first sentence."""
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    flat = " ".join(said.split())
    return re.split(r"(?<!et al)\.(?: |$)", flat, maxsplit=1)[0]


def folders() -> list[Path]:
    """The packages and their rooms."""
    packages = [ROOT / name for name in ("core", "sweep", "slurm", "analysis")]
    rooms = {path.parent for package in packages for path in package.rglob("__init__.py")}
    return sorted(rooms)


def tree() -> str:
    """One line per folder: what its docstring says first."""
    lines = ["```text"]
    for folder in folders():
        name = str(folder.relative_to(ROOT))
        lines.append(f"{name + '/':<24} {first_sentence(folder / '__init__.py')}")
    return "\n".join([*lines, "```"]) + "\n"


def test_the_tree_is_the_tree() -> None:
    text = README.read_text("utf-8")
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == tree(), "run: python tests/test_readme.py"


def test_every_option_is_in_the_readme() -> None:
    from core.config import RunConfig
    from core.config.evaluation import KINDS
    from core.config.schedule import PRESETS

    text = README.read_text("utf-8")
    section = text.partition("### Every option of a run")[2].partition("### What went wrong")[0]
    names = {name.rpartition(".")[2] for name in fields_of(RunConfig)}
    names |= {name for kind in KINDS.values() for name in kind.model_fields}
    words = set(re.findall(r"\w+", section))
    assert {*names, *PRESETS} <= words, {*names, *PRESETS} - words


def test_the_example_grid_is_valid(tmp_path: Path) -> None:
    from sweep.grid import definition

    text = README.read_text("utf-8")
    (example,) = re.findall(r"```yaml\n(name: .*?)```", text, re.S)
    assert yaml.safe_load(example)["name"]
    (tmp_path / "example.yaml").write_text(example)
    # 3 backbones x 2 datasets x 3 seeds, each once standard and 2 strengths x 3 schedules
    assert len(definition.load(tmp_path / "example.yaml").runs) == 3 * 2 * 3 * (1 + 2 * 3)


def test_every_command_is_in_the_readme_and_the_other_way_round() -> None:
    from typer.main import get_command

    from sweep.cli import app

    text = README.read_text("utf-8")
    shown = set(re.findall(r"^\| `sweep ([a-z-]+)", text, re.M))
    assert shown == set(get_command(app).commands)  # type: ignore[attr-defined]


def commands() -> list[str]:
    """Every command line of ours in a code block, and those of the section on the paper's runs."""
    text = README.read_text("utf-8")
    section = text[text.index("## Run the paper\n") :].partition("\n## ")[0]
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    inline = re.findall(r"`(sweep [a-z-]+ [^`]+)`", section)
    found = re.findall(r"(?:^|; do )(sweep [^#;\n]+)", blocks, re.M) + inline
    return list(dict.fromkeys(line.strip() for line in found))


@pytest.mark.parametrize("line", commands())
def test_a_command_parses(line: str) -> None:
    """Verb, arguments and options; a grid by its name has to be one of ours."""
    from typer.main import get_command

    from sweep.cli import app, spread_only
    from sweep.grid import definition

    _, *words = spread_only(shlex.split(line))
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    parsed = command.make_context("sweep", list(words)).params
    names = parsed.get("grids") or [parsed.get("grid")]
    for name in names if isinstance(names[0], str) else names[0] or ():
        if not name.startswith("$") and not name.endswith(".yaml"):
            assert definition.load(name).runs


def test_the_way_to_every_table_is_shown() -> None:
    """A shipped grid that feeds each of the paper's tables, but for Table 5, which needs no run."""
    from sweep.grid import definition

    shown = [re.findall(r"--table (\d+)", line) for line in commands()]
    assert {int(number) for found in shown for number in found} == {*range(1, 13)} - {5}
    for line, numbers in zip(commands(), shown, strict=True):
        if numbers:
            assert set(numbers) <= set(definition.load(line.split()[2]).tables)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("demo", "test", "slurm-test", "check", "format", "contracts"):
        assert re.search(rf"^{target}:", makefile, re.M)
    assert "make demo" in README.read_text("utf-8")


if __name__ == "__main__":
    old = README.read_text("utf-8")
    head, rest = old[: old.index(BEGIN) + len(BEGIN)], old[old.index(END) :]
    README.write_text(head + tree() + rest, "utf-8")

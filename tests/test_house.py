"""What keeps the packages readable: names of modules and functions, imports, length of files."""

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[1]
PACKAGES = ("analysis", "core", "slurm", "sweep")
LINES = 300


def offences(path: Path) -> list[str]:
    text = path.read_text()
    lines = len(text.splitlines())
    found = [f"{path}: {lines} lines, at most {LINES}"] if lines > LINES else []
    module = path.parent.name if path.stem == "__init__" else path.stem
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name.removeprefix("_") == module:
            found.append(f"{path}:{node.lineno}: a function is called like its module")
        if isinstance(node, ast.Import | ast.ImportFrom):
            source = (getattr(node, "module", None) or node.names[0].name).split(".")[0]
            found += [
                f"{path}:{node.lineno}: '{name.name}' is imported as '{name.asname}'"
                for name in node.names
                if name.asname not in (None, name.name) and source in PACKAGES
            ]
    return found


def test_the_packages_keep_to_plain_names_and_short_files() -> None:
    paths = [path for name in PACKAGES for path in sorted((REPO / name).rglob("*.py"))]
    assert not [line for path in paths for line in offences(path)]


def test_what_is_counted_agrees_with_its_number() -> None:
    """`counted(1, "run")`, never f"{count} runs"."""
    plural = re.compile(r"\} (?:[a-z]+ )?(?:runs|jobs|tasks|workers|searches|trials)\b")
    paths = [path for name in PACKAGES for path in (REPO / name).rglob("*.py")]
    assert not [
        f"{path}: {line.strip()}"
        for path in paths
        for line in path.read_text().splitlines()
        if plural.search(line) and 'f"' in line
    ]


def test_an_offence_is_found(tmp_path: Path) -> None:
    path = tmp_path / "fit.py"
    path.write_text("from sweep import fit as fitting\n\ndef fit():\n    pass\n" + "#\n" * LINES)
    assert len(offences(path)) == 3

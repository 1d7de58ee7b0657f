"""Own code by import path: found, imported, hashed, and refused with one line."""

import sys

import pytest

from core.config import ConfigError, own_code


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder; what a test imports from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mine", "pkg", "space"):
            del sys.modules[name]
    own_code._imported.clear()


def refusal(act, *given):
    with pytest.raises(ConfigError) as caught:
        act(*given)
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    "files", [["mine.py"], ["pkg/__init__.py", "pkg/mod.py"], ["space/deep/mod.py"]]
)
def test_an_object_is_found_in_the_current_folder_and_follows_its_file(here, files):
    file = here / files[-1]
    for name in files:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    dotted = files[-1].removesuffix(".py").replace("/", ".") + ":Thing"
    file.write_text("class Thing:\n    size = 1\n")
    first = own_code.digest(dotted)
    assert own_code.load(dotted).size == 1
    assert own_code.load(dotted) is own_code.load(dotted)
    file.write_text("class Thing:\n    size = 2\n")
    assert own_code.load(dotted).size == 2, "an edit is imported anew"
    assert own_code.digest(dotted) != first
    assert own_code.locate(dotted).file == file
    assert own_code.locate(dotted).top == here / files[-1].partition("/")[0]
    assert str(here) not in sys.path


def test_the_current_folder_wins_over_installed_packages(here):
    (here / "yaml.py").write_text("Thing = 1\n")
    assert own_code.locate("yaml:Thing").file == here / "yaml.py"


def test_what_cannot_be_imported_is_refused_with_one_line_that_says_where(here):
    (here / "pkg").mkdir()
    (here / "pkg/__init__.py").touch()
    (here / "pkg/losses.py").write_text("class Focal: ...\n")
    (here / "mine.py").write_text("import os\n\nos.nothing\n")
    (here / "pkg/broken.py").write_text("def f(:\n")
    (here / "pkg/leaves.py").write_text("raise SystemExit(3)\n")
    (here / "pkg/needs.py").write_text("import not_installed_here\n")
    said = {
        "mine": "expected MODULE:NAME",
        "a:b:c": "expected MODULE:NAME",
        "../x:Y": "expected MODULE:NAME",
        "none:X": f"no module 'none' in {here}, nor on PYTHONPATH",
        "pkg.loses:Focal": f"no module 'loses' in {here / 'pkg'}, did you mean 'losses'?",
        "pkg.losses:Fokal": f"no 'Fokal' in {here / 'pkg/losses.py'}, did you mean 'Focal'?",
        "mine.deep:X": "'mine' is a module",
        "mine:X": f"has no attribute 'nothing' ({here / 'mine.py'}:3)",
        "pkg.broken:X": "broken.py, line 1",
        "pkg.leaves:X": f"SystemExit: 3 ({here / 'pkg/leaves.py'}:1)",
        "pkg.needs:X": f"No module named 'not_installed_here' ({here / 'pkg/needs.py'}:1)",
        "core.mine:X": "'core' is the name of a module of epsweep",
        "random:X": "'random' is the name of a module of Python",
    }
    for dotted, part in said.items():
        assert part in refusal(own_code.load, dotted), dotted


def test_knobs_are_checked_against_the_signature():
    class Cosine:
        def __init__(self, epochs, floor, power=2.0): ...

    def check(*knobs):
        own_code.check_knobs(Cosine, "m:Cosine", knobs, given=("epochs", "seed"))

    check("floor")
    check("floor", "power")
    assert (
        refusal(check, "floor", "powr") == "powr: no parameter of m:Cosine, did you mean 'power'?"
    )
    assert refusal(check) == "floor: m:Cosine needs a value for it"
    assert "from the run" in refusal(check, "floor", "epochs")
    assert "expected a class or a function" in refusal(own_code.check_knobs, 3, "m:x", ())
    built = own_code.call(lambda seed, x: (seed, x), {"x": 1}, {"seed": 7, "epochs": 2})
    assert built == (7, 1)


def test_changed_source_is_refused(here):
    (here / "mine.py").write_text("x = 1\n")
    code = (("mine:x", own_code.digest("mine:x")),)
    own_code.check(code)
    (here / "mine.py").write_text("x = 2\n")
    assert f"{here / 'mine.py'} has changed" in refusal(own_code.check, code)

"""The tree of exceptions is the one that its page draws, and importing it costs no torch."""

from __future__ import annotations

import re
import subprocess
import sys

from core import errors


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for space, name in re.findall(r"^( {4,})([A-Z]\w+)", str(errors.__doc__), re.MULTILINE):
        above = [(depth, parent) for depth, parent in above if depth < len(space)]
        if above:
            drawn[name] = above[-1][1]
        above.append((len(space), name))
    found = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    assert drawn == found


def test_what_sorts_failures_needs_no_torch() -> None:
    code = "import sys, core.errors, sweep.state.triage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_count_agrees_with_its_noun() -> None:
    counted = [
        errors.counted(n, noun) for noun in ("run", "search", "retry", "epoch") for n in (0, 1, 2)
    ]
    assert counted == [
        *("0 runs", "1 run", "2 runs"),
        *("0 searches", "1 search", "2 searches"),
        *("0 retries", "1 retry", "2 retries"),
        *("0 epochs", "1 epoch", "2 epochs"),
    ]

"""A user's own classes and functions, named in a grid by import path: `my_pkg.mod:Cosine`.

They are looked for in the current folder, then where Python looks (PYTHONPATH, installed packages);
a job uses the copy that was frozen when it was launched, and nothing is imported from run folders.
The source of the file that defines the object is part of a run's identity: editing it makes new
runs. Other files of its package are frozen for jobs but not hashed. Torch-free.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, NamedTuple

from core.config.knobs import Pairs
from core.config.values import nearest
from core.errors import ConfigError, first_line

FROZEN = "frozen.json"
"""File of a frozen copy, beside its packages, that records the commit they were copied from."""
OURS = ("core", "sweep", "slurm", "analysis", "epsweep")


def is_own(name: object) -> bool:
    """Whether the name of a kind or backbone is an import path; built-in names have no colon."""
    return isinstance(name, str) and ":" in name


def with_knobs(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """{kind: a.b:C, x: 1} as {kind: a.b:C, knobs: {x: 1}}; mappings of built-in kinds and those
    that have `knobs` already (stored configs) unchanged."""
    if not is_own(given.get("kind")) or "knobs" in given:
        return given
    knobs = {name: value for name, value in given.items() if name not in ("kind", "name")}
    return {"kind": given["kind"], "knobs": knobs}


def label(dotted: str, knobs: Pairs = ()) -> str:
    """Name in tables of an object of the user's: 'Cosine' or 'Cosine;power=2'; imports nothing."""
    shown = (f"{k}={'/'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in knobs)
    return ";".join([dotted.rpartition(":")[2], *shown])


class Use(NamedTuple):
    """How one kind of user's code is called, and what it must provide."""

    facts: tuple[str, ...]
    """Values that the run passes to parameters of these names, if there are any."""
    has: tuple[str, ...] = ()
    """Attributes that it must have."""
    base: str = ""
    """Dotted name of the class to inherit them from."""
    needs: tuple[str, ...] = ()
    """Facts for which it must have a parameter."""


USES = {
    "schedule": Use(
        ("epochs", "seed"),
        (
            *("alpha", "strengths", "stop_after", "observe", "state", "restore"),
            *("attacked_epochs", "rehearsed"),
        ),
        "core.training.schedules.EpsilonSchedule",
    ),
    "objective": Use(
        (), ("loss_sum", "begin_epoch", "extra_forwards"), "core.training.objectives.Loss"
    ),
    "backbone": Use(("classes",), needs=("classes",)),
}


class Place(NamedTuple):
    """Where an object is defined. top: the folder of its top-level package, or the file of its
    module if that is not in a package; file: the module's source."""

    top: Path
    file: Path
    spec: ModuleSpec


def locate(dotted: str) -> Place:
    """Find the module of `pkg.mod:Name` without importing anything. Raises ConfigError if there is
    no such module, or it has no Python source."""
    module, _ = _parts(dotted)
    name, *inner = module.split(".")
    if name in OURS or name in sys.stdlib_module_names:
        whose = "epsweep" if name in OURS else "Python"
        raise ConfigError(f"{dotted}: '{name}' is the name of a module of {whose}, rename yours")
    spec = _spec(name)
    if spec is None:
        raise ConfigError(f"{dotted}: no module '{name}' in {_home()}, nor on PYTHONPATH")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        file = Path(spec.origin or "")
        if inner:
            raise ConfigError(f"{dotted}: '{name}' is a module, {file}, and has no '{inner[0]}'")
        if file.suffix != ".py":
            raise ConfigError(f"{dotted}: '{name}' has no Python source")
        return Place(file, file, spec)
    stem = folders[0].joinpath(*inner)
    for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py") if inner else stem):
        if file.is_file():
            return Place(folders[0], file, spec)
    near = {path.stem for path in stem.parent.glob("*.py")} - {"__init__"} if inner else set()
    hint = nearest(stem.name, sorted(near)) if near else ""
    raise ConfigError(f"{dotted}: no module '{stem.name}' in {stem.parent}{hint}")


def digest(dotted: str) -> str:
    """16 hex digits: a hash of the source file that defines `dotted`. Raises ConfigError."""
    return _digest(locate(dotted).file)


def load(dotted: str) -> Any:
    """The object at `pkg.mod:Name`; its module is imported again if its file has changed.

    Raises ConfigError with one line if it is not found, or if importing it fails.
    """
    place, (module, name) = locate(dotted), _parts(dotted)
    found = _import(module, place, dotted)
    if not hasattr(found, name):
        public = [known for known in vars(found) if not known.startswith("_")]
        raise ConfigError(f"{dotted}: no '{name}' in {place.file}{nearest(name, public)}")
    return getattr(found, name)


def check(code: Iterable[tuple[str, str]]) -> None:
    """Raises ConfigError if a source file has changed since its digest was taken."""
    for dotted, known in code:
        if (now := digest(dotted)) != known:
            raise ConfigError(
                f"{dotted}: {locate(dotted).file} has changed: this run needs digest {known}, "
                f"got {now}; launch the grid again, which makes a new run"
            )


def digests(names: Iterable[object]) -> dict[str, str]:
    """Import path -> digest, for those of the names that are import paths. Raises ConfigError."""
    return {str(name): digest(str(name)) for name in names if is_own(name)}


def check_knobs(
    target: Callable[..., Any], dotted: str, knobs: Iterable[str], given: Iterable[str] = ()
) -> None:
    """Raises ConfigError if `target` cannot be called with the keyword arguments `knobs`. given:
    names of parameters that get their value from the run instead."""
    if not callable(target):
        raise ConfigError(f"{dotted}: expected a class or a function, got {target!r:.60}")
    parameters = _parameters(target)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    facts, knobs = set(given), set(knobs)
    takes = [name for name in named if name not in facts]
    for name in sorted(knobs):
        if name in facts:
            raise ConfigError(f"{name}: {dotted} gets it from the run, leave it out")
        if name not in named and not open_ended:
            hint = nearest(name, takes) if takes else " (it takes none)"
            raise ConfigError(f"{name}: no parameter of {dotted}{hint}")
    for name in takes:
        if named[name].default is inspect.Parameter.empty and name not in knobs:
            raise ConfigError(f"{name}: {dotted} needs a value for it")


def fitting(dotted: str, used_as: str, knobs: Pairs = ()) -> Any:
    """The object at an import path. Raises ConfigError unless it provides what its use requires and
    accepts these knobs. used_as: a key of USES."""
    target, use = load(dotted), USES[used_as]
    check_knobs(target, dotted, (name for name, _ in knobs), use.facts)
    if missing := {*use.needs} - _names_of(target):
        raise ConfigError(f"{dotted}: needs a parameter '{min(missing)}'")
    if lacking := [name for name in use.has if not hasattr(target, name)]:
        raise ConfigError(f"{dotted}: has no '{lacking[0]}', inherit {use.base}")
    return target


def make(
    used_as: str, kinds: Mapping[str, Any], kind: str, knobs: Pairs, facts: Mapping[str, Any]
) -> Any:
    """An instance of a kind. A built-in one, from `kinds`, is called with those `facts` that it has
    parameters for; a user's one with its knobs and the facts of its use. Raises ConfigError."""
    if not is_own(kind):
        asked = _asked_by(kinds[kind])
        return kinds[kind](**{name: fact for name, fact in facts.items() if name in asked})
    target = fitting(kind, used_as, knobs)
    with blamed(kind):
        return call(target, dict(knobs), {name: facts[name] for name in USES[used_as].facts})


@contextmanager
def blamed(dotted: str) -> Iterator[None]:
    """Turn an exception from the user's code into a ConfigError: one line that says where."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        where = _where(error, locate(dotted).top)
        raise ConfigError(f"{dotted}: {type(error).__name__}: {first_line(error)}{where}") from None


def call(target: Callable[..., Any], knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """Call `target` with its knobs, and with those facts that it has parameters for."""
    asked = _names_of(target)
    return target(**{name: facts[name] for name in facts if name in asked}, **knobs)


@cache  # planning instantiates the same few built-in classes for every run
def _asked_by(kind: type) -> frozenset[str]:
    return frozenset(_names_of(kind))


def _names_of(target: Callable[..., Any]) -> set[str]:
    return {p.name for p in _parameters(target)}


def _parameters(target: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(target).parameters.values())


def _parts(dotted: str) -> tuple[str, str]:
    """'my_pkg.mod:Name' -> ('my_pkg.mod', 'Name'). Raises ConfigError."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", dotted):
        raise ConfigError(f"'{dotted}': expected MODULE:NAME, such as my_pkg.mod:Name")
    module, _, name = dotted.partition(":")
    return module, name


def _home() -> Path:
    """The frozen copy that this code is part of, or the current folder."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / FROZEN).is_file() else Path(os.getcwd())


def _spec(name: str) -> ModuleSpec | None:
    """How to import a top-level module: from home, else by Python's own rules."""
    importlib.invalidate_caches()  # the file may have been made after its folder was listed
    found = PathFinder.find_spec(name, [str(_home())])
    if found is None:
        rules = (finder.find_spec(name, None) for finder in sys.meta_path)
        found = next((spec for spec in rules if spec), None)
    if found and found.submodule_search_locations is not None:
        # For a folder without __init__.py, Python would recompute the locations from sys.path.
        found.submodule_search_locations = [*found.submodule_search_locations]
    return found


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


_imported: dict[str, tuple[Path, str]] = {}
"""Module -> its file, and the file's digest when this process imported it."""


def _import(module: str, place: Place, dotted: str) -> Any:
    name = module.partition(".")[0]
    now = place.file, _digest(place.file)
    there = getattr(sys.modules.get(module), "__file__", None)
    if there and (_imported.get(module, now) != now or not place.file.samefile(there)):
        for other in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[other]
    try:
        if name not in sys.modules:
            top = sys.modules[name] = module_from_spec(place.spec)
            assert place.spec.loader
            try:
                place.spec.loader.exec_module(top)
            except BaseException:
                sys.modules.pop(name, None)
                raise
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        where = _where(error, place.top)
        raise ConfigError(
            f"{dotted}: cannot be imported: {type(error).__name__}: {first_line(error)}{where}"
        ) from None
    _imported[module] = now
    return found


def _where(error: BaseException, top: Path) -> str:
    """The line of the user's own code that failed: ' (/home/me/mod.py:12)'."""
    if isinstance(error, SyntaxError) and error.filename:
        return "" if error.filename in str(error) else f" ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename) == top or top in Path(f.filename).parents]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""

"""Grids, profiles, tables and run folders that are nearly right: one line or an answer, but never a
traceback, and no exit code outside 0 to 3. The everyday tests try a few, the slow one many.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import analysis_store
import pytest
from mutation import mutated

from analysis import command
from core.errors import ConfigError
from core.store.folders import Store
from slurm.profile import read_profile
from sweep.grid import load_grid, parse_grid, shipped_grids

Call = Callable[..., tuple[int, str, str]]
Try = Callable[[random.Random], None]

REPO = Path(__file__).parents[2]
GRIDS = [
    text
    for text in (path.read_text("utf-8") for path in shipped_grids().values())
    if len(parse_grid(text, Path("g.yaml")).runs) <= 40
]
PROFILES = [path.read_text("utf-8") for path in (REPO / "slurm" / "profiles").glob("*.yaml")]
TABLES = [
    "".join(path.read_text("utf-8").splitlines(keepends=True)[:9])
    for path in (REPO / "analysis" / "published").glob("*.csv")
]
GRID = """
name: g
base: {dataset: cars}
grid: {backbone: [swin], schedule: [fix, sched]}
"""


MANY = {"grid": 600, "profile": 1200, "table": 200, "run folder": 180}
"""How many the slow test tries: 20 s of them."""


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def try_grid(chance: random.Random) -> None:
    text = mutated(chance.choice(GRIDS), chance)
    try:
        for run in parse_grid(text, Path("g.yaml")).runs[:3]:
            json.dumps([run.id, run.config.to_dict()], allow_nan=False)
    except ConfigError as error:
        assert_lines(error, "g.yaml")


def try_profile(path: Path) -> Try:
    def attempt(chance: random.Random) -> None:
        path.write_bytes(encoded(mutated(chance.choice(PROFILES), chance)))
        try:
            found = read_profile(path)
            for one in (found, *map(found.for_backbone, found.overrides)):
                one.slurm_parameters()
                one.executor_options()
        except ConfigError as error:
            assert_lines(error, str(path))

    return attempt


def try_table(path: Path) -> Try:
    def attempt(chance: random.Random) -> None:
        path.write_bytes(encoded(mutated(chance.choice(TABLES), chance)))
        try:
            source = command.Source.files([path])
            if chance.random() < 0.1:  # it takes a second
                how = chance.choice(["markdown", "csv", "latex", "tidy"])
                command.tables(source, how, partial=True, significant=False, compare=False)
        except ConfigError as error:
            assert_lines(error, "")

    return attempt


def assert_lines(error: Exception, start: str) -> None:
    assert all(line.startswith(start) for line in str(error).splitlines()), error


@pytest.fixture
def run_folders(call: Call, tmp_path: Path, store: Store) -> Try:
    """Spoils one file of a store with two finished runs, and asks for something."""
    path = tmp_path / "g.yaml"
    path.write_text(GRID)
    for run in load_grid(path).runs:
        analysis_store.finish(store.root, run.config)
    files = sorted(p for p in store.root.rglob("*") if p.suffix in (".json", ".jsonl", ".yaml"))
    assert len(files) > 6
    verbs = [
        *(("status", str(path)), ("status", str(path), "--json"), ("plan", str(path))),
        *(("tables", str(path), "--partial"), ("status", str(path), "--diagnose")),
        *(("logs", load_grid(path).runs[0].id), ("launch", str(path), "--dry-run")),
    ]

    def attempt(chance: random.Random) -> None:
        file = chance.choice(files)
        whole = file.read_bytes()
        file.write_bytes(encoded(mutated(whole.decode(), chance)))
        try:
            code, _, err = call(*chance.choice(verbs))
        finally:
            file.write_bytes(whole)
        assert code in range(4) and "Traceback" not in err

    return attempt


def attempts(attempt: Try, seeds: Iterator[int], name: str) -> Iterator[int]:
    """Each seed, once its attempt has ended well."""
    for seed in seeds:
        try:
            attempt(random.Random(seed))
        except BaseException as error:
            error.add_note(f"{name}, seed {seed}")
            raise
        yield seed


@pytest.mark.parametrize(("name", "most"), [("grid", 60), ("profile", 150), ("table", 20)])
def test_a_few_mutations(tmp_path: Path, name: str, most: int) -> None:
    kinds = {"grid": try_grid, "profile": try_profile(tmp_path / "p.yaml")}
    attempt = (kinds | {"table": try_table(tmp_path / "t.csv")})[name]
    assert len([*attempts(attempt, iter(range(most)), name)]) == most


def test_a_few_mutated_run_folders(run_folders: Try) -> None:
    assert len([*attempts(run_folders, iter(range(15)), "run folder")]) == 15


@pytest.mark.slow
def test_many_mutations(tmp_path: Path, run_folders: Try) -> None:
    kinds = {"grid": try_grid, "profile": try_profile(tmp_path / "p.yaml")}
    kinds |= {"table": try_table(tmp_path / "t.csv"), "run folder": run_folders}
    for name, attempt in kinds.items():
        seeds = range(1000, 1000 + MANY[name])
        assert len([*attempts(attempt, iter(seeds), name)]) == MANY[name]

"""Grids and profiles are read as a person reads them: a number, a word or a refusal, never another
number; and what refers to other places in a file can neither leave the file nor grow out of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from grid_text import mistakes, parse

from core.config.document import Document
from core.errors import ConfigError
from slurm.profile import read_profile
from sweep.grid.file import GridFile

TEXT = (
    *("12:00:00", "1:30", "010", "0x1f", "0o17", "0b1", "1_000", "1_0.5", "yes", "no", "on", "off"),
    *("y", "2024-01-31", "2024-01-31 12:00:00", ".inf", "-.inf", ".nan", "=", "<<", "1e", "1.2.3"),
)
NUMBERS = {
    "12": 12,
    "-3": -3,
    "+3": 3,
    "0": 0,
    "-0.5": -0.5,
    "1e3": 1e3,
    "1e-3": 1e-3,
    "1.5E+2": 150.0,
    ".5": 0.5,
    "5.": 5.0,
    "0e9": 0.0,
}


@pytest.mark.parametrize("text", TEXT)
def test_what_is_no_number_is_text(text: str) -> None:
    assert Document(f"a: {text}", "f").data == {"a": text}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_those_of_python(text: str) -> None:
    value = Document(f"a: {text}", "f").data["a"]
    assert (value, type(value)) == (NUMBERS[text], type(NUMBERS[text]))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n  b: 1e999", "f:2: a.b: the number '1e999' is out of range"),
        ("a: -1e999", "f:1: a: the number '-1e999' is out of range"),
        ("a: 1e-999", "f:1: a: the number '1e-999' is out of range"),
        ("a: !!int 010", "f:1: a: expected a plain value, got '010' tagged !!int"),
        ("a: !!float '1:30'", "f:1: a: expected a plain value, got '1:30' tagged !!float"),
        ("a: !!timestamp 2024-01-31", "tagged !!timestamp"),
        ("a: !!set {x, y}", "f:1: a: expected a plain value, got one tagged !!set"),
        ("a: !!python/object:os.system x", "got 'x' tagged !!python/object:os.system"),
        ("a: 1\n? [x]\n: 2", "f:2: ?: a key must be text, put quotes around it"),
        ("a: 1\nb: \x00", "f:2: not valid YAML: unexpected character #x0000"),
        ("[" * 5000, "f:1: not valid YAML: nested deeper than 64 levels"),
        ("a:\n " + "[" * 64 + "]" * 64, "f:2: not valid YAML: nested deeper than 64 levels"),
    ],
)
def test_a_refusal_is_one_line_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Document(text, "f")
    (line,) = caught.value.lines
    assert told in line


@pytest.mark.parametrize("value", ["12:00:00", "010", "1_000", "0x1f", "1e2", ".inf", "2024-01-31"])
def test_a_time_limit_is_a_whole_number_of_minutes(tmp_path: Path, value: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"executor: slurm\nslurm:\n  timeout_min: {value}\n")
    told = r"p\.yaml:3: slurm\.timeout_min: expected a whole number of minutes, got"
    with pytest.raises(ConfigError, match=told):
        read_profile(file)


def test_words_of_a_profile_stay_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "executor: slurm\nstale_s: 3e2\nenv: {A: 010, B: on, C: 12:30, D: 1_000, NO: 2024-01-31}\n"
        "slurm: {timeout_min: 60, slurm_account: 010, slurm_partition: on}\n"
    )
    read = read_profile(file)
    assert read.env == {"A": "010", "B": "on", "C": "12:30", "D": "1_000", "NO": "2024-01-31"}
    assert (read.stale_s, read.slurm.slurm_account, read.slurm.slurm_partition) == (
        300,
        "010",
        "on",
    )


@pytest.mark.parametrize("value", ["010", "1_000", "1:30", "0x1f"])
def test_a_whole_number_of_a_grid_is_refused_or_what_it_looks_like(value: str) -> None:
    grid = f"name: g\nbase:\n  backbone: swin\n  dataset: cars\n  epochs: {value}\n"
    assert mistakes(grid)[0].endswith(
        f"g.yaml:5: epochs: input should be a valid integer, got '{value}'"
    )


def test_a_switch_of_a_grid_may_be_a_word() -> None:
    base = "name: g\nbase: {backbone: swin, dataset: cars, augment.flip: %s}\n"
    ids = {word: parse(base % word).runs[0].id for word in ("no", "off", "false", "False")}
    assert len(set(ids.values())) == 1


# References.


def nested(first: str, line: str) -> str:
    """Twelve lines, each of which names the one before ten times."""
    lines = [f"  l{i}: " + line.replace("@", f"l{i - 1}") for i in range(1, 12)]
    return f"x: ${{about}}\nabout:\n  l0: {first}\n" + "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        nested("0123456789", "'" + "${about.@}" * 10 + "'"),
        nested("0123456789", "'" + "${.@}" * 10 + "'"),
        nested("0123456789", "'" + "${about[@]}" * 10 + "'"),
        nested("0123456789", "'" + "${x.@}" * 10 + "'"),
        nested("[x]", "[" + "'${about.@}', " * 10 + "]"),
        nested("{a: x}", "{" + "".join(f"k{i}: '${{about.@}}', " for i in range(10)) + "}"),
        nested("0123456789", "'" + "${about.@}" * 10 + "'") + "\nz: ${z}",
        '"0": xx\n' + "\n".join(f'"{i}": "{f"${{{i - 1}}}" * 10}"' for i in range(1, 12)),
        "a0: x\n" + "\n".join(f"a{i}: ${{a{i - 1}}}" for i in range(1, 400)),
    ],
)
def test_references_cannot_grow_out_of_a_file(text: str) -> None:
    before = time.process_time()
    with pytest.raises(ConfigError):
        GridFile(text, "f")
    assert time.process_time() - before < 5  # it would be minutes, and all of the memory


@pytest.mark.parametrize(
    "text",
    [
        "a: '${oc.env:HOME}'",
        "a: '${ oc.env:HOME}'",
        "a: '${oc.${b}:HOME}'\nb: env",
        "a: '${${b}:HOME}'\nb: oc.env",
        "a: '${${b}}'\nb: oc.env:HOME",
        "a: '${oc.decode:${b}}'\nb: oc.env",
        "a: '${oc.create:x}'",
        "a: '${oc.select:b}'\nb: 1",
        'a: "\\x24{oc.env:HOME}"',
        "a: ['${b}{oc.env:HOME}', '${']\nb: $",
    ],
)
def test_a_reference_names_a_place_of_the_file_and_calls_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected \$\{key.key\}, the place of a value"):
        GridFile(text, "f")


def test_text_that_becomes_a_reference_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDDEN", "told")
    data = GridFile("a: $\nb: '${a}{oc.env:HIDDEN}'\nc: '${b}'\nd: ['${c}']", "f").data
    assert data["d"] == ["${oc.env:HIDDEN}"]


def test_references_to_places() -> None:
    text = (
        "about: {a: [1, 2], b: '${.a}', c: '${about.a[1]}', d: 'x${about.c}y', e: '${about.a.0}'}"
    )
    expected = {"a": [1, 2], "b": [1, 2], "c": 2, "d": "x2y", "e": 1}
    assert GridFile(text, "f").data["about"] == expected

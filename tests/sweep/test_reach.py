"""Likely typos in strengths, and strengths that no evaluation measures, are told at plan time, with
their place in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import RunConfig
from core.config.evaluation_kinds import MinimalNorm
from core.config.values import fields_of
from sweep import cli
from sweep.grid import load_grid, parse_grid, reach, shipped_grids

HEAD = "name: g\nbase: {backbone: vit, dataset: cars, epochs: 4}\n"


def warnings(text: str) -> tuple[str, ...]:
    return parse_grid(HEAD + text, Path("g.yaml")).warnings


@pytest.mark.parametrize(
    ("axes", "evals", "told"),
    [
        (
            "grid: {epsilon_g: [4/255, 16/255], schedule: [standard, fix]}",
            "[{epsilons: 0..8/255}]",
            "g.yaml:4: evals: apgd-ce-10 does not measure 16/255: 1 run is trained for 16/255, "
            "whose adversarial and expected accuracy will be missing",
        ),
        (
            "grid: {epsilon_g: [4/255], schedule: [fix, sched]}",
            "[{epsilons: [0, 4/255]}]",
            "g.yaml:4: evals: apgd-ce-10 does not measure 1/255, 2/255, 3/255: 2 runs are trained "
            "for 4/255, whose expected accuracy will be missing",
        ),
        (
            "grid: {epsilon_g: [1/2], norm: [l2]}",
            "[{norm: l2, epsilons: [0, 1]}]",
            "g.yaml:4: evals: apgd-ce-10 does not measure 0.5: 1 run is trained for 0.5, whose "
            "adversarial and expected accuracy will be missing",
        ),
    ],
)
def test_what_will_be_missing_is_reported(axes: str, evals: str, told: str) -> None:
    assert warnings(f"{axes}\nevals: {evals}\n") == (told,)


def test_a_likely_typo_is_reported_in_every_field_that_holds_a_strength() -> None:
    text = """\
grid:
  epsilon_g: [4/225, 4/255, 0.01, 1/4]
  rest: [{validation.epsilon: 8/25}, {schedule: {kind: points, points: [[0, 1/225]]}}]
evals:
  - {epsilons: 0..16/225}
  - {epsilons: [0, 4 / 256, 1/10]}
"""
    typos = [line for line in warnings(text) if "did you mean" in line]
    assert typos == [
        "g.yaml:4: epsilon_g: 4/225, did you mean 4/255?",
        "g.yaml:5: validation.epsilon: 8/25, did you mean 8/255?",
        "g.yaml:7: epsilons: 0..16/225, did you mean 0..16/255?",
        "g.yaml:8: epsilons: 4 / 256, did you mean 4 / 255?",
    ]
    names = (name.rpartition(".")[2] for name in (*fields_of(RunConfig), *fields_of(MinimalNorm)))
    assert {name for name in names if name.startswith("eps")} == reach.FIELDS


@pytest.mark.parametrize(
    "text",
    [
        "grid: {epsilon_g: [4/255, 8/255], schedule: [standard, fix]}\n",
        "grid: {epsilon_g: [1/2], norm: [l2]}\nevals: [{norm: l2, epsilons: [0, 1/2]}]\n",
        "grid: {epsilon_g: [1/2], norm: [l2]}\nevals: [{epsilons: 0..8/255}]\n",
        "grid: {epsilon_g: [4/255]}\nevals: [{attack: corruptions}]\n",
        "grid: {schedule: [fix]}\nevals: [{attack: fmn, epsilons: [0, 4/255]}]\n",
        "grid: {epsilon_g: [4/255]}\nevals: [{epsilons: [0, 4/255], prior: [1, 1]}]\n",
        "grid: {epsilon_g: [4/255]}\nevals: [{attack: autoattack, epsilons: [0, 4/255]}]\n",
    ],
)
def test_what_is_measured_is_not_spoken_of(text: str) -> None:
    assert warnings(text) == ()


def test_the_shipped_grids_measure_what_they_train() -> None:
    assert {name: w for name in shipped_grids() if (w := load_grid(name).warnings)} == {}


@pytest.mark.parametrize("verb", [["plan"], ["launch", "--dry-run"]])
def test_on_the_command_line(
    verb: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        "name: g\nbase: {backbone: mini_convnext, weights: random, dataset: fake, image_size: 32}\n"
        "grid: {epsilon_g: [16/255], schedule: [fix]}\nevals: [{epsilons: 0..8/255}]\n"
    )
    command = ["sweep", *verb[:1], str(path), "--root", str(tmp_path / "out"), *verb[1:]]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    assert (
        f"warning: {path}:4: evals: apgd-ce-10 does not measure 16/255" in capsys.readouterr().err
    )

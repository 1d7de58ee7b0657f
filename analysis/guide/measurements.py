"""Five accuracies of each configuration on each dataset, in one frame: from the published file,
others of its shape, or runs.

Names are the published ones, accuracies fractions, as they are there. What was asked for and not
measured is a row too, whose state and reason say why.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.frames import Frame
from analysis.results import Results
from analysis.runs import Run
from core.config import ConfigError, nearest
from core.config.datasets import entries
from core.config.registry import backbone_problem, backbones

METRICS = ("clean", "linf", "l2", "l1", "common")
COLUMNS = dict(
    zip(("clean_acc", "Linf_acc", "L2_acc", "L1_acc", "common_acc"), METRICS, strict=True)
)
"""Column of the published file -> metric."""
PROTOCOLS = ("FFT (50 epochs)", "FFT (5 epochs)", "LP (50 epochs)")
PROTOCOL = re.compile(r"(FFT|LP|LoRA) \((\d+) epochs\)", re.ASCII)
LOSSES = ("Classic AT", "TRADES")
DATASETS = {
    "caltech101": "caltech101",
    "cars": "stanford_cars",
    "aircraft": "fgvc-aircraft-2013b",
    "flowers": "flowers-102",
    "pets": "oxford-iiit-pet",
    "ucmerced": "uc-merced-land-use-dataset",
}
"""Our name -> the published one."""
SIZES = ("large", "medium", "small")
SIZE_LIMITS = {"large": 50e6, "medium": 20e6, "small": 0.0}
"""Least parameters of each class."""
FACTORS = ("size", "type", "loss", "pretraining")
"""What sets configurations apart, beside the backbone itself."""
CONFIGURATION = ["protocol", "backbone", "loss"]
CELL = [*CONFIGURATION, "dataset"]
KEYS = ("ft_strategy", "backbone", "loss_function", "dataset")
"""Columns of the published file that name a cell, in the order of CELL."""
FRAME = Frame(
    "guide",
    {
        **dict.fromkeys(CELL, "str"),
        **dict.fromkeys((*METRICS, "sum", "geom"), "float64"),
        "n": "Int64",
        "name": "str",
        "size": "str",
        "type": "str",
        "pretraining": "str",
        "state": "str",
        "reason": "str",
        "run_id": "str",
    },
)
"""geom is the product of the five, as in the published file; n: images behind each accuracy."""
PROTOCOL_NAMES = {"full": "FFT", "linear": "LP", "lora": "LoRA"}
LOSS_NAMES = {"at": "Classic AT", "trades": "TRADES"}
FAMILIES = {
    "attention": "fully attention",
    "convolution": "fully convolutional",
    "hybrid": "hybrid",
}

Row = dict[str, Any]


class Cell(NamedTuple):
    """One configuration on one dataset."""

    protocol: str
    backbone: str
    loss: str
    dataset: str


class Facts(NamedTuple):
    """What is known of a backbone; '' if it is not."""

    name: str
    size: str
    type: str
    pretraining: str


def published() -> pd.DataFrame:
    """The 1,440 published configurations."""
    return read([_shipped("results.csv")])


def design() -> list[Cell]:
    """All cells of the published benchmark."""
    return [Cell(*one) for one in product(PROTOCOLS, _facts(), LOSSES, DATASETS.values())]


def is_guide(path: str | Path) -> bool:
    """Whether a CSV file has columns that only the published file has."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError):
        return False  # whoever reads it will say so
    return bool({*KEYS, *COLUMNS} - {"backbone", "dataset"} & {*header})


def read(files: Sequence[Path | Traversable], asked: Iterable[Cell] | None = None) -> pd.DataFrame:
    """CSV files in the columns of the published one; sum, geom and facts of backbones may be left
    out, they are known.

    asked: the cells that there should be; by default, for each protocol, every combination of what
    the files hold. Raises ConfigError, naming file and line, for missing columns, unknown names,
    percent where fractions are expected, and a cell that comes twice.
    """
    found: dict[Cell, tuple[str, Row]] = {}
    for file in files:
        for where, row in _rows(file):
            cell = Cell(*(row[name] for name in CELL))
            if cell in found:
                raise ConfigError(f"{where}: {', '.join(cell)} is in {found[cell][0]} already")
            found[cell] = where, row
    if not found:
        raise ConfigError(f"{', '.join(map(str, files))}: no measurements")
    wanted = dict.fromkeys(asked if asked is not None else combinations(found))
    lacking = (_missing(cell, "not in the source") for cell in wanted if cell not in found)
    kept = (row for cell, (_, row) in found.items() if asked is None or cell in wanted)
    return _frame([*kept, *lacking])


def combinations(found: Iterable[Cell]) -> Iterator[Cell]:
    """For each protocol every combination of its backbones, losses and datasets."""
    cells = [*found]
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        mine = [cell for cell in cells if cell.protocol == protocol]
        levels = [dict.fromkeys(values) for values in zip(*mine, strict=True)]
        yield from (Cell(*one) for one in product(*levels))


def of_runs(results: Results) -> pd.DataFrame:
    """The runs of a store; several seeds of a configuration are averaged.

    Raises ConfigError if runs of one configuration differ in more than the seed.
    """
    groups: dict[Cell, list[Run]] = {}
    for run in results.runs:
        groups.setdefault(cell_of(run.config, run.setting), []).append(run)
    measured = _measured(results.values)
    rows = []
    for cell, runs in groups.items():
        seeds = [run.config["seed"] for run in runs]
        if len({*seeds}) < len(seeds):
            same = ", ".join(run.dir.id for run in runs[:2])
            raise ConfigError(f"{', '.join(cell)}: several runs ({same}, ...), choose by --only")
        rows.append(_averaged(cell, [measured[run.dir.id] for run in runs]))
    return _frame(rows)


def cell_of(config: Mapping[str, Any], setting: str) -> Cell:
    """Of a run, by its config as a manifest has it."""
    kind = PROTOCOL_NAMES[config["protocol"]]
    objective = config["objective"]
    loss = LOSS_NAMES.get(objective["kind"], objective["kind"])
    if objective["kind"] == "trades" and objective["beta"] != 1:
        loss += f" (beta {objective['beta']:g})"
    if setting != "fix":
        loss = setting if setting == "standard" else f"{loss}, {setting}"
    name = config["dataset"]
    return Cell(
        f"{kind} ({config['epochs']} epochs)",
        published_name(config["backbone"]),
        loss,
        DATASETS.get(name, name.rstrip("/").rsplit("/", 1)[-1]),
    )


def published_name(backbone: str) -> str:
    """What the published file calls a backbone of ours; others keep their names."""
    entry = backbones().get(backbone)
    if entry is None:
        return backbone
    return entry.guide or (entry.timm if entry.timm in _facts() else backbone)


@cache
def our_names() -> Mapping[str, str]:
    """Published name of a backbone -> ours."""
    return {published_name(name): name for name in backbones()}


def facts(backbone: str) -> Facts:
    """Of a published name: as published, whatever the registry says; else of the registry."""
    if backbone in _facts():
        return _facts()[backbone]
    entry = backbones().get(backbone)
    if entry is None or entry.params is None:
        return Facts(backbone, "", "", "")
    return Facts(backbone, size_of(entry.params), FAMILIES.get(entry.family, ""), entry.pretraining)


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as dictionaries."""
    found: Any = frame.to_dict("records")
    return list(found)


def params(backbone: str) -> int | None:
    """Parameters of the trunk of a backbone, by its published name; None if they are not known."""
    entry = backbones().get(our_names().get(backbone, backbone))
    return entry.params if entry else None


def size_of(params: int) -> str:
    """The class of a backbone by its parameters."""
    return next(name for name, least in SIZE_LIMITS.items() if params >= least)


@cache
def _facts() -> Mapping[str, Facts]:
    lines = csv.DictReader(_shipped("backbones.csv").read_text("utf-8").splitlines())
    columns = ("backbone_name", "model_size", "model_type", "pre_training_strategy")
    return {line["backbone"]: Facts(*(line[name] for name in columns)) for line in lines}


def _shipped(name: str) -> Traversable:
    return resources.files("analysis").joinpath("published", "guide", name)


def _rows(file: Path | Traversable) -> Iterator[tuple[str, Row]]:
    """(file:line, row) of one CSV file."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{file}: {reason}") from None
    reader = csv.DictReader(text.splitlines())
    header = reader.fieldnames or ()
    missing = [name for name in (*KEYS, *COLUMNS) if name not in header]
    if missing:
        raise ConfigError(
            f"{file}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)} "
            f"(expected {','.join((*KEYS, *COLUMNS))})"
        )
    for line in reader:
        where = f"{file.name}:{reader.line_num}"
        if None in line or None in line.values():
            raise ConfigError(f"{where}: expected as many cells as the header has")
        yield where, _row({name: (text or "").strip() for name, text in line.items()}, where)


def _row(line: Mapping[str, str], where: str) -> Row:
    cell = Cell(*(CHECKS[name](line[name], where) for name in KEYS))
    numbers = {ours: _fraction(theirs, line[theirs], where) for theirs, ours in COLUMNS.items()}
    lacking = [name for name in METRICS if numbers[name] is None]
    reason = f"no {', '.join(lacking)} in {where}" if lacking else ""
    return _filled(cell, numbers, state="missing" if lacking else "done", reason=reason)


def _filled(cell: Cell, numbers: Mapping[str, float | None], **about: Any) -> Row:
    return {**cell._asdict(), **numbers, "n": None, "run_id": "", **about}


def _missing(cell: Cell, reason: str) -> Row:
    return _filled(cell, dict.fromkeys(METRICS), state="missing", reason=reason)


def _fraction(column: str, text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if 1 < value <= 100:
        raise ConfigError(
            f"{where}: {column}: expected a fraction in [0, 1], got percent ('{text}')"
        )
    if not 0 <= value <= 1:
        raise ConfigError(f"{where}: {column}: expected a fraction in [0, 1], got '{text}'")
    return value


def _protocol(text: str, where: str) -> str:
    if PROTOCOL.fullmatch(text):
        return text
    raise ConfigError(f"{where}: unknown ft_strategy '{text}'{nearest(text, PROTOCOLS)}")


def _backbone(text: str, where: str) -> str:
    if text in _facts():
        return text
    if backbone_problem(text) is None:
        return published_name(text)
    raise ConfigError(f"{where}: unknown backbone '{text}'{nearest(text, _facts())}")


def _loss(text: str, where: str) -> str:
    if text in LOSSES:
        return text
    raise ConfigError(f"{where}: unknown loss_function '{text}'{nearest(text, LOSSES)}")


def _dataset(text: str, where: str) -> str:
    name = DATASETS.get(text, text)
    if name in DATASETS.values() or name in entries():
        return name
    raise ConfigError(f"{where}: unknown dataset '{text}'{nearest(text, DATASETS.values())}")


CHECKS = {
    "ft_strategy": _protocol,
    "backbone": _backbone,
    "loss_function": _loss,
    "dataset": _dataset,
}


def _measured(values: pd.DataFrame) -> dict[str, Row]:
    """Run id -> its five accuracies, from rows of `analysis.load`; of several attacks in one norm
    AutoAttack counts."""
    slots = values["metric"].map({"clean": "clean", "corrupted": "common"})
    slots = slots.where(values["metric"] != "adv", values["eval_norm"])
    ours = values.assign(slot=slots)[slots.isin(METRICS)].sort_values(
        ["kind", "eval_norm"],
        key=lambda column: ~column.isin(("autoattack", "linf")),
        kind="stable",
    )
    first = ours.drop_duplicates(["run_id", "slot"])
    runs = pd.Index(values["run_id"].unique(), name="run_id")
    table = first.pivot(index="run_id", columns="slot", values="value")
    table = table.reindex(index=runs, columns=list(METRICS))
    counts = first.groupby("run_id")["n"].min()
    slots_of = first.groupby("run_id")["slot"].agg(set).to_dict()
    broken = first[first["state"] != "done"].drop_duplicates("run_id").set_index("run_id")
    states = {row["run_id"]: row for row in records(broken[["state", "reason"]].reset_index())}
    found = {}
    for row in records((table / 100).round(12).join(counts).reset_index()):
        lacking = [name for name in METRICS if name not in slots_of.get(row["run_id"], ())]
        state, reason = "done", ""
        if row["run_id"] in states:
            state, reason = (states[row["run_id"]][name] for name in ("state", "reason"))
        elif lacking:
            state, reason = "missing", f"no evaluation gives {', '.join(lacking)}"
        found[row["run_id"]] = {**row, "state": state, "reason": reason}
    return found


def _averaged(cell: Cell, rows: Sequence[Row]) -> Row:
    worst = next((row for row in rows if row["state"] != "done"), rows[0])
    table = pd.DataFrame([{name: row[name] for name in METRICS} for row in rows], dtype=float)
    means = table.mean(skipna=False)
    return {
        **cell._asdict(),
        **{name: means[name] for name in METRICS},
        **{name: worst[name] for name in ("state", "reason", "n", "run_id")},
    }


def _frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows in the published order of protocols, losses and datasets; the rest as it came."""
    found = [{**row, **facts(row["backbone"])._asdict()} for row in rows]
    numbers = pd.DataFrame([{name: row[name] for name in METRICS} for row in found], dtype=float)
    table = pd.DataFrame(found).assign(
        **{name: numbers[name] for name in METRICS},
        sum=numbers.sum(axis=1, skipna=False),
        geom=numbers.prod(axis=1, skipna=False),
    )
    orders = {"protocol": PROTOCOLS, "loss": LOSSES, "dataset": tuple(DATASETS.values())}
    placed = table.sort_values(
        ["protocol", "dataset", "loss"], key=lambda column: _places(column, orders), kind="stable"
    )
    return FRAME.typed(placed.reset_index(drop=True))


def _places(column: pd.Series, orders: Mapping[str, Sequence[str]]) -> pd.Series:
    known = orders[str(column.name)]
    levels = [*known, *(v for v in dict.fromkeys(column) if v not in known)]
    return column.map({value: place for place, value in enumerate(levels)})

"""One self-contained HTML page on a sweep: findings, tables, figures, every run, coverage, origin.

Run folders -> `write` -> index.html. The page loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from analysis import batchnorm, tuned
from analysis.command import Source
from analysis.diagnosis import standard_runs
from analysis.figures import CAPTIONS, PER_PAIR, drawings
from analysis.figures.style import styled
from analysis.findings import delay_rule
from analysis.margins.tables import margin_tables
from analysis.paper import describe_values, main_tables, one_evaluation
from analysis.report import facts, rows
from analysis.report.details import configs, describe_run
from analysis.results import Results
from analysis.tables import Table
from core.store.files import write_text

SECTIONS = {
    "findings": "Findings",
    "results": "Results",
    "figures": "Figures",
    "runs": "Runs",
    "coverage": "Coverage",
    "cost": "Time",
    "origin": "Origin",
}
PAIRS = 12
"""With more (model, dataset) pairs, figures with a panel for each stay out of the page."""
DPI = 150


def write(
    results: Results,
    folder: str | Path,
    *,
    title: str,
    about: Mapping[str, Any] | None = None,
    wandb: str | None = None,
) -> Path:
    """Write `folder`/index.html and return its path.

    title: the sweep's name. about: the grid's own (question, gpu_hours). wandb: address of the
    W&B project, 'https://wandb.ai/ENTITY/PROJECT', for links; None where nothing was synced.
    """
    path = Path(folder) / "index.html"
    write_text(path, _page(results, title, dict(about or {}), wandb))
    return path


def _page(results: Results, title: str, about: dict[str, Any], wandb: str | None) -> str:
    template = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
    shared, differing = configs(results.runs)
    runs = facts.in_paper_order(results.runs)
    environments = facts.environments(results)
    standard = standard_runs(results.runs)
    figures, omitted = _figures(results)
    return template.render(
        title=title,
        question=about.get("question", ""),
        states=Counter(run.state for run in results.runs).most_common(),
        sections=SECTIONS.items(),
        findings=facts.findings(results),
        violations=facts.violations(results),
        what=describe_values(one_evaluation(results.values)),
        filters=rows.filters(results),
        cells=rows.cell_rows(results),
        tables=[
            batchnorm.flagged(tuned.flagged(table, results), results)
            for table in (*main_tables(results.values), *margin_tables(results.margins))
        ],
        levels=levels,
        figures=figures,
        omitted=omitted,
        runs=rows.run_rows(results, runs),
        delay_rule=delay_rule(results.runs),
        coverage=facts.coverage(results),
        hours=facts.hours(results, about),
        store=str(results.store.root),
        version=version("epsweep"),
        environments=environments,
        environment_names=list(dict.fromkeys(name for one in environments for name in one)),
        shared=shared,
        data=_json(
            [
                describe_run(run, differing[run.dir.id], wandb, standard.get(run.dir.id))
                for run in runs
            ]
        ),
    )


def _json(value: object) -> Markup:
    """JSON that cannot end its <script> element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def levels(table: Table) -> list[list[tuple[str, int]]]:
    """Header lines of a table as (label, columns it spans)."""
    lines = []
    depth = len(table.header[0]) if table.header else 0
    for level in range(depth - 1):
        upper = [labels[: level + 1] for labels in table.header]
        lines.append([(labels[-1], len(list(group))) for labels, group in groupby(upper)])
    return [*lines, [(labels[-1], 1) for labels in table.header]]


def _figures(results: Results) -> tuple[list[dict[str, Any]], str]:
    """The figures as images, and what to say about those left out."""
    pairs = results.table[["model", "dataset"]].drop_duplicates()
    names = [name for name in CAPTIONS if name not in PER_PAIR or len(pairs) <= PAIRS]
    omitted = ""
    if len(names) < len(CAPTIONS):
        omitted = (
            f"Figures with one panel for each of the {len(pairs)} (model, dataset) pairs are left "
            "out here; the command sweep figures writes them, and each run below has its curves."
        )
    source = Source(results.values, results)
    images = [
        _embedded(figure, f"{CAPTIONS[name]} ({stem})")
        for name in names
        for stem, figure in drawings(name, source)
    ]
    return images, omitted


def _embedded(figure: Figure, caption: str) -> dict[str, Any]:
    """A figure as a palette PNG in a data address: a third of the size of a full-colour one."""
    full, small = io.BytesIO(), io.BytesIO()
    with styled():
        figure.savefig(full, format="png", dpi=DPI)
    image = Image.open(full).convert("RGB").quantize(128)
    image.save(small, format="png", optimize=True)
    return {
        "uri": "data:image/png;base64," + base64.b64encode(small.getvalue()).decode(),
        "caption": caption,
        "width": image.width * 96 // DPI,
        "height": image.height * 96 // DPI,
    }

"""One self-contained HTML page on a sweep: findings, tables, figures, every run, coverage, origin.

Run folders -> `Digests.of` -> `write` -> index.html. The page loads nothing from elsewhere. It
contains the runs' data as compressed JSON, which its script unpacks when it is shown.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from analysis import batchnorm, tuned
from analysis.choice import one_evaluation
from analysis.command import Source
from analysis.figures import CAPTIONS, PER_PAIR, drawings
from analysis.figures.style import styled
from analysis.findings import delay_rule
from analysis.guide import summary
from analysis.guide.own import of_runs
from analysis.margins.tables import margin_tables
from analysis.paper import describe_values, main_tables
from analysis.report import facts, rows
from analysis.report.configs import config_texts
from analysis.report.digest import Digests, compact
from analysis.report.verdict import Verdict
from analysis.results import Results
from analysis.runs import Run
from analysis.tables import Table
from core.errors import counted
from core.store.files import write_text

__all__ = ["Digests", "write"]

OTHERS = "; columns named by a norm: under AutoAttack in it; common: under corruptions"
"""What the additional columns on pages of the Guide are."""
SECTIONS = {
    "findings": "Findings",
    "results": "Results",
    "figures": "Figures",
    "runs": "Runs",
    "coverage": "Coverage",
    "cost": "Time",
    "origin": "Origin",
}
GUIDE = "guide"
SCRIPTS = ("packed.js", "table.js", "run.js", "verdict.js", "live.js", "report.js")
"""Files that are joined to the page's script, in this order."""
PAIRS = 12
"""With more (model, dataset) pairs, figures with a panel for each are left out of the page."""
EPOCHS_OF = 500
"""With more runs, figures of every epoch are left out: 10,000 runs have half a million epochs."""
TOGETHER = 200
"""Number of runs whose details are compressed, and unpacked by the page, together."""
INKS = {"#000000": "currentColor", "#e6e6e6": "var(--line)", "#ffffff": "var(--paper)"}
"""Colour in figures -> the page's colour that replaces it."""


def write(
    digests: Digests,
    folder: str | Path,
    *,
    title: str,
    about: Mapping[str, Any] | None = None,
    wandb: str | None = None,
    tables: Sequence[str] = (),
) -> Path:
    """Write `folder`/index.html and return its path.

    title: the sweep's name. about: the grid's `about` (question, gpu_hours). wandb: address of the
    W&B project, 'https://wandb.ai/ENTITY/PROJECT', for links; None without links. tables: those
    that the grid feeds. The paper's rules apply to grids that feed one of its tables; for 'guide'
    the page has the tables and figures of the Guide (arXiv 2508.14079), and ConfigError is raised
    if runs of one of its cells differ in more than the seed.
    """
    path = Path(folder) / "index.html"
    write_text(path, page(digests, title, dict(about or {}), wandb, tables))
    return path


def core(digests: Digests, wandb: str | None = None, tables: Sequence[str] = ()) -> str:
    """JSON of the page's tables; parameters as for `write`."""
    results = digests.results
    benchmark = of_runs(results) if GUIDE in tables else None
    more = {}
    if benchmark is not None:
        more = summary.accuracies(benchmark, one_evaluation(results.values))
    data = {
        "wandb": wandb,
        "together": TOGETHER,
        "verdict": Verdict(digests).as_data(),
        "cells": rows.cells_table(digests, more),
        "runs": rows.runs_table(digests),
        "layout": [_as_data(table) for table in _laid_out(results, benchmark)],
        "coverage": [facts.coverage(digests)],
    }
    return compact(data)


def details_of(digests: Digests, run_id: str) -> str | None:
    """JSON of what the page shows when one run is opened, read from disk now; None if there is no
    such run."""
    run = next((one for one in digests.runs if one.dir.id == run_id), None)
    if run is None:
        return None
    beside = [run, *filter(None, [digests.standard.get(run_id)])]
    fresh = Digests.of(digests.results.only(beside))
    return _shown(fresh, fresh.run(run_id), config_texts(digests.runs)[1][run_id])


def page(
    digests: Digests,
    title: str,
    about: Mapping[str, Any],
    wandb: str | None = None,
    tables: Sequence[str] = (),
    *,
    live: bool = False,
) -> str:
    """The HTML of the whole page; parameters as for `write`. live: the page asks its server for
    changes."""
    results = digests.results
    benchmark = of_runs(results) if GUIDE in tables else None
    template = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
    shared, differing = config_texts(digests.runs)
    environments = facts.environments(digests)
    figures, omitted = _figures(results) if benchmark is None else (_of_guide(benchmark), "")
    script = "\n".join(_template_file(name) for name in SCRIPTS)
    return template.render(
        title=title,
        live=live,
        question=about.get("question", ""),
        states=Counter(state for state, _ in digests.states.values()).most_common(),
        sections=SECTIONS.items(),
        findings=_findings(digests, tables, benchmark),
        taus=facts.taus(digests),
        violations=facts.violations(digests),
        what=describe_values(one_evaluation(results.values))
        + (OTHERS if benchmark is not None else ""),
        filters=rows.filters(results),
        layout="In the paper's layout" if benchmark is None else "Rankings and tests",
        is_guide=benchmark is not None,
        names=rows.NAMES,
        figures=[{"caption": figure["caption"], "ratio": figure["ratio"]} for figure in figures],
        omitted=omitted,
        delay_rule=delay_rule(results),
        hours=facts.hours(digests, about),
        store=str(results.store.root),
        version=version("epsweep"),
        environments=environments,
        environment_names=list(dict.fromkeys(name for one in environments for name in one)),
        shared=shared,
        packed={
            "core": _packed(core(digests, wandb, tables)),
            **{f"figure-{i}": _packed(json.dumps(one["svg"])) for i, one in enumerate(figures)},
            **{
                f"details-{i // TOGETHER}": _packed(_details(digests, i, differing))
                for i in range(0, 0 if live else len(digests.runs), TOGETHER)
            },
        },
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode(),
    )


def _template_file(name: str) -> str:
    return files("analysis.report").joinpath("templates", name).read_text("utf-8")


def _packed(text: str) -> str:
    """JSON compressed for the page, to a fifth of its size, and without characters that could end
    its HTML element. By level 9 the page would be 4 % smaller, in twice the time."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _details(digests: Digests, first: int, configs: Mapping[str, str]) -> str:
    """JSON of what the page shows when one of the TOGETHER runs from index `first` is opened."""
    runs = digests.runs[first : first + TOGETHER]
    return f"[{','.join(_shown(digests, run, configs[run.dir.id]) for run in runs)}]"


def _shown(digests: Digests, run: Run, config: str) -> str:
    more = {"config": config, "diagnosis": digests.diagnosis(run)}
    return json.dumps(more)[:-1] + "," + digests.shown[run.dir.id][1:]


def _findings(digests: Digests, tables: Sequence[str], benchmark: pd.DataFrame | None) -> list[str]:
    if benchmark is None:
        paper = any(table.isdecimal() for table in tables)
        return facts.findings(digests, paper=paper)
    # The other findings compare schedules, of which the Guide has only one.
    return [*summary.sentences(benchmark), *facts.standing(digests)]


def _laid_out(results: Results, benchmark: pd.DataFrame | None) -> list[Table]:
    if benchmark is not None:
        return summary.laid_out(benchmark)
    return [
        batchnorm.flagged(tuned.flagged(table, results), results)
        for table in (*main_tables(results.values), *margin_tables(results.margins))
    ]


def _as_data(table: Table) -> dict[str, Any]:
    """A table as data for the page's script; an entry is a text, or [text] if it is bold."""
    return {
        "title": table.title,
        "stub": table.stub,
        "levels": levels(table),
        "rows": [
            (labels, [[e.text + e.mark] if e.bold else e.text + e.mark for e in entries])
            for labels, entries in table.rows
        ],
        "notes": table.notes,
    }


def levels(table: Table) -> list[list[tuple[str, int]]]:
    """Header lines of a table, each a list of (label, number of columns it spans)."""
    lines = []
    depth = len(table.header[0]) if table.header else 0
    for level in range(depth - 1):
        upper = [labels[: level + 1] for labels in table.header]
        lines.append([(labels[-1], len(list(group))) for labels, group in groupby(upper)])
    return [*lines, [(labels[-1], 1) for labels in table.header]]


def _of_guide(benchmark: pd.DataFrame) -> list[dict[str, Any]]:
    with rc_context({"svg.hashsalt": "epsweep"}):
        return [_drawn(figure, about, stem) for stem, figure, about in summary.drawn(benchmark)]


def _figures(results: Results) -> tuple[list[dict[str, Any]], str]:
    """(the figures as SVG, a sentence on those left out or '')."""
    pairs, runs = len(results.table[["model", "dataset"]].drop_duplicates()), len(results.runs)
    heavy = (*PER_PAIR, "dynamics") if runs > EPOCHS_OF else PER_PAIR if pairs > PAIRS else ()
    names = [name for name in CAPTIONS if name not in heavy]
    omitted = ""
    if heavy:
        omitted = (
            f"Figures with one panel for each of the {pairs} (model, dataset) pairs are left "
            f"out here ({counted(runs, 'run')}); the command sweep figures writes them, and each "
            "run below has its curves."
        )
    source = Source(results.values, results)
    with rc_context({"svg.hashsalt": "epsweep"}):
        images = [
            _drawn(figure, f"{CAPTIONS[name]} ({stem})", stem)
            for name in names
            for stem, figure in drawings(name, source)
        ]
    return images, omitted


def _drawn(figure: Figure, caption: str, stem: str) -> dict[str, Any]:
    """A figure as SVG in the page's colours, for the page's script to insert."""
    file = io.BytesIO()
    FigureCanvasSVG(figure)  # the text sizes of this canvas decide the layout
    with styled():
        if engine := figure.get_layout_engine():  # savefig would lay it out and draw it twice
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'#([\w-]+)[")]', svg))
    # Remove ids that nothing refers to: they are not unique, as every figure has an axes_1.
    svg = re.sub(r' id="([\w-]+)"', lambda m: _own_id(m[1], stem) if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#([\w-]+)', rf"\1#{stem}-\2", svg)
    for ink, own in INKS.items():
        svg = svg.replace(f": {ink}", f": {own}")
    width, height = figure.get_size_inches()
    return {"svg": svg, "caption": caption, "ratio": f"{width:.2f} / {height:.2f}"}


def _own_id(name: str, stem: str) -> str:
    return f' id="{stem}-{name}"'

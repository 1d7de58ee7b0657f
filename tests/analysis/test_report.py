"""The report page: what it holds, that it stands alone, and that it works in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import analysis_store as made
import pytest

from analysis import Results
from analysis.report import levels, write
from analysis.report.facts import coverage, diagnosis, findings, hours
from analysis.report.rows import run_rows
from analysis.tables import Table
from core.config import Corruptions
from core.store.json_files import write_jsonl

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def sweep(root: Path) -> Results:
    """A small sweep: 7 runs done, one failed, one running, one not started."""
    runs = made.grid(("vit", "swin"), ("cars",))
    for run in runs[:-3]:
        made.finish(root, run)
    failed = made.start(root, runs[-3], 3)
    made.attempt(failed, outcome="failed", reason="out of memory </script><b>boo")
    made.attempt(made.start(root, runs[-2], 5), ended=None)
    return Results(root, made.manifest(root, runs))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on `sweep`."""
    root = tmp_path_factory.mktemp("report")
    return write(
        sweep(root),
        root / "out",
        title="demo",
        about={"question": "<img src=x onerror=alert(1)>"},
        wandb="https://wandb.ai/lab/epsweep",
    )


class Tags(HTMLParser):
    """Checks that elements nest and collects the attributes of each."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "option"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_stands_alone_and_is_well_formed(page: Path) -> None:
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    for tag, attributes in tags.seen:
        for name in ("src", "href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["alt"] and attributes["width"] and attributes["height"]
    assert "@import" not in text and "url(" not in text
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_text_of_runs_cannot_break_out_of_the_page(page: Path) -> None:
    text = page.read_text()
    assert "<b>boo" not in text and "<img src=x" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data is not None
    runs = json.loads(data[1])
    assert any("out of memory </script><b>boo" in json.dumps(run["facts"]) for run in runs)


def test_every_run_is_there_with_its_link(page: Path) -> None:
    text = page.read_text()
    runs = Results(page.parent.parent).runs
    assert text.count('class="open"') == len(runs) == 10
    for run in runs:
        assert f"https://wandb.ai/lab/epsweep/runs/{run.dir.id}" in text
    assert "out of memory" in text and "0123abc" in text and ">7 done<" in text


def test_findings_count_what_is_done(tmp_path: Path) -> None:
    sentences = findings(sweep(tmp_path))
    assert sentences[-1].startswith("7 of 10 runs done; no sanity gate is broken")
    assert any("sched better in" in sentence for sentence in sentences)


def test_minutes_of_a_run_are_those_of_its_attempts(tmp_path: Path) -> None:
    """Its evaluations included, which may take longer than its training (61.5 s here)."""
    results = sweep(tmp_path)
    made.attempt(results.runs[0].dir, outcome="done")  # an evaluation added later
    results = Results(results.store.root)
    minutes = [row["minutes"] for row in run_rows(results, results.runs)]
    assert sorted(minutes) == ["", "", "", *["4.1"] * 6, "8.2"]


def test_hours_count_failed_attempts_but_no_running_ones(tmp_path: Path) -> None:
    spent = hours(sweep(tmp_path), {"gpu_hours": 12})
    assert spent.planned == 12
    assert spent.used == pytest.approx(8 * 245 / 3600)  # 7 done and 1 failed, 4 min 5 s each
    assert spent.done == 7 and spent.projected == pytest.approx(245 * 10 / 3600)
    assert spent.unit == "hours"


def test_hours_of_runs_on_several_gpus_are_gpu_hours(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    for run in made.runs:
        write_jsonl(run.dir.attempts, [row | {"gpus": 4} for row in run.attempts])
    spent = hours(Results(made.store.root), {})
    assert spent.used == pytest.approx(4 * 8 * 245 / 3600) and spent.unit == "GPU-hours"
    assert spent.projected == pytest.approx(4 * 245 * 10 / 3600)


def test_coverage_accounts_for_every_run(tmp_path: Path) -> None:
    names, lines = coverage(sweep(tmp_path))
    assert names[0] == "standard" and "sched 8/255" in names
    assert sum(count for _, counters in lines for c in counters for count in c.values()) == 10


def test_diagnosis_reads_the_curves(tmp_path: Path) -> None:
    said = [diagnosis(run) for run in sweep(tmp_path).runs]
    assert any("adapted at epoch 8" in text for text in said)
    assert any("never adapted" in text for text in said)
    assert any("3 of 12 epochs" in text and "out of memory" in text for text in said)


def test_headers_span_their_groups() -> None:
    header = (("a", "x"), ("a", "y"), ("b", "x"))
    table = Table("t", ("m",), header, ())
    assert levels(table) == [[("a", 2), ("b", 1)], [("x", 1), ("y", 1), ("x", 1)]]


def test_many_pairs_leave_figures_per_pair_out(tmp_path: Path) -> None:
    datasets = ("aircraft", "caltech256", "cars", "cub", "dogs", "glyph", "plane")
    runs = made.grid(("vit", "swin"), datasets, ("4/255",), ("fix",))
    results = Results(tmp_path, made.fill(tmp_path, runs))
    text = write(results, tmp_path / "out", title="many").read_text()
    assert "each of the 14 (model, dataset) pairs are left out" in text
    assert "Validation accuracy, clean and under attack" not in text


@pytest.fixture
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_page_works_in_a_browser(page: Path, browser: Any) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url) if "http" in request.url else None)
    tab.goto(page.as_uri())
    sorts(tab)
    filters(tab)
    opens_a_run(tab)
    # readable on a phone: the page itself does not scroll sideways, wide tables do
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert wrong == []


def column(tab: Any, number: int) -> list[str]:
    cells = tab.locator(f"#cells tbody tr:not([hidden]) > :nth-child({number})")
    return [text.split("\n")[0] for text in cells.all_inner_texts()]


def sorts(tab: Any) -> None:
    header = tab.locator("#cells thead th").nth(4)
    for direction in ("ascending", "descending"):
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == direction
        shown = column(tab, 5)
        values = [float(text) for text in shown if text[0].isdigit()]
        assert len(values) > 5
        assert values == sorted(values, reverse=direction == "descending")
        assert all(not text[0].isdigit() for text in shown[len(values) :])  # missing ones last


def filters(tab: Any) -> None:
    tab.get_by_label("Setting").select_option("sched")
    assert set(column(tab, 4)) == {"sched"}
    count = tab.locator("#cells .count").inner_text()
    assert count == f"{len(column(tab, 4))} of 12"
    assert tab.locator("#run-table .count").inner_text() == "4 of 10"
    tab.get_by_label("Search").fill("swin")
    assert set(column(tab, 1)) == {"SWIN"}
    tab.get_by_role("button", name="Clear").click()
    tab.locator("#cells .count", has_text="12 of 12").wait_for()


def opens_a_run(tab: Any) -> None:
    tab.get_by_label("State").select_option("failed")
    button = tab.locator("#run-table tr:not([hidden]) .open")
    assert button.count() == 1
    button.focus()
    tab.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    detail = tab.locator("#run-table .detail")
    assert "out of memory </script><b>boo" in detail.inner_text()
    assert "schedule.kind" in detail.inner_text() and "epoch 1" in detail.inner_text()
    assert detail.locator("svg path").count() == 2  # clean and adversarial; not evaluated yet
    button.click()
    assert detail.count() == 0 and button.get_attribute("aria-expanded") == "false"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Path, browser: Any, scheme: str) -> None:
    tab = browser.new_page(color_scheme=scheme)
    tab.goto(page.as_uri())
    pairs = tab.evaluate(
        """() => [...document.querySelectorAll("p, td, th, .state, a, summary, label, caption")]
             .filter((node) => node.textContent.trim())
             .map((node) => {
               let back = node;
               while (back && getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)")
                 back = back.parentElement;
               return [getComputedStyle(node).color,
                       getComputedStyle(back || document.body).backgroundColor];
             })"""
    )
    assert len(pairs) > 50
    for ink, back in {tuple(pair) for pair in pairs}:
        assert contrast(rgb(ink), rgb(back)) >= 4.5, (ink, back)  # WCAG AA


def rgb(color: str) -> list[float]:
    return [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]


def contrast(first: list[float], second: list[float]) -> float:
    def light(color: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(first), light(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_sweep_that_is_judged_under_corruptions_alone(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",))
    for run in runs:
        made.start(tmp_path, run)
    asked = Corruptions()
    results = Results(tmp_path, made.manifest(tmp_path, runs, (asked,)))
    assert write(results, tmp_path / "out", title="noise").is_file()
    assert findings(results)[0].startswith("Nothing to compare yet")

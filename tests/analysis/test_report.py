"""The report page: what it holds, that it stands alone, and that it works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import analysis_store as made
import pytest
from browsing import Tab, chromium, unreadable
from report_page import all_text, unpacked, written

from analysis import Results
from analysis.report import Digests, levels, write
from analysis.report.facts import coverage, findings, hours
from analysis.report.rows import runs_table
from analysis.tables import Table
from core.config import Corruptions, EvalConfig
from core.store.json_files import write_jsonl


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
        Digests.of(sweep(root)),
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
    assert "@import" not in text and "url(" not in text
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_text_of_runs_cannot_break_out_of_the_page(page: Path) -> None:
    text = page.read_text()
    assert "<b>boo" not in text and "<img src=x" not in text
    runs = unpacked(page)["details-0"]
    assert any("out of memory </script><b>boo" in json.dumps(run["facts"]) for run in runs)


def test_only_the_script_of_the_page_may_run(page: Path) -> None:
    text = page.read_text()
    (allowed,) = re.findall(r"script-src 'sha256-([^']+)'", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed
    assert "default-src 'none'" in text


def test_every_run_is_there(page: Path) -> None:
    core, runs = unpacked(page)["core"], Results(page.parent.parent).runs
    keys = [column["key"] for column in core["runs"]["columns"]]
    shown = [dict(zip(keys, row, strict=True)) for row in core["runs"]["rows"]]
    assert {row["id"] for row in shown} == {run.dir.id for run in runs} and len(shown) == 10
    assert core["wandb"] == "https://wandb.ai/lab/epsweep"
    text = all_text(page)
    assert "out of memory" in text and "0123abc" in text and ">7 done<" in text


def test_an_unchanged_run_is_taken_from_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is not read again, whoever asks for its state, delay, intervals or BatchNorm."""
    monkeypatch.setattr("analysis.index.SETTLED", -(10**18))  # as if written long ago
    rows = made.fill(tmp_path, made.grid(("vit",), ("cars",), ("4/255",)))
    before = _packed_of(tmp_path, rows)
    with mock.patch("core.store.damage.find", side_effect=AssertionError("read again")):
        assert _packed_of(tmp_path, rows) == before


def _packed_of(root: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return unpacked(write(Digests.of(Results(root, rows)), root / "out", title="t"))


def test_findings_count_what_is_done(tmp_path: Path) -> None:
    sentences = findings(Digests.of(sweep(tmp_path)))
    assert sentences[-1].startswith("7 of 10 runs done; no sanity gate violated")
    assert sentences[0].startswith("Sched instead of fix changes, at eps_g = 4/255, clean accuracy")
    assert not any("sched better in" in sentence for sentence in sentences)
    of_paper = findings(Digests.of(sweep(tmp_path / "paper")), paper=True)
    assert any("sched better in" in sentence for sentence in of_paper)
    assert of_paper[0].startswith("Suboptimal transfer shows") and of_paper[1] == sentences[0]


def test_minutes_of_a_run_are_those_of_its_attempts(tmp_path: Path) -> None:
    """Its evaluations included, which may take longer than its training (61.5 s here)."""
    results = sweep(tmp_path)
    made.attempt(results.runs[0].dir, outcome="done")  # an evaluation added later
    table = runs_table(Digests.of(Results(results.store.root)))
    place = [column["key"] for column in table["columns"]].index("minutes")
    minutes = [row[place] for row in table["rows"]]
    assert sorted(minutes) == ["", "", "", *["4.1"] * 6, "8.2"]


def test_hours_count_failed_attempts_but_no_running_ones(tmp_path: Path) -> None:
    spent = hours(Digests.of(sweep(tmp_path)), {"gpu_hours": 12})
    assert spent.planned == 12
    assert spent.used == pytest.approx(8 * 245 / 3600)  # 7 done and 1 failed, 4 min 5 s each
    assert spent.done == 7 and spent.projected == pytest.approx(245 * 10 / 3600)
    assert spent.unit == "hours"


def test_hours_of_runs_on_several_gpus_are_gpu_hours(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    for run in made.runs:
        write_jsonl(run.dir.attempts, [row | {"gpus": 4} for row in run.attempts])
    spent = hours(Digests.of(Results(made.store.root)), {})
    assert spent.used == pytest.approx(4 * 8 * 245 / 3600) and spent.unit == "GPU-hours"
    assert spent.projected == pytest.approx(4 * 245 * 10 / 3600)


def test_coverage_accounts_for_every_run(tmp_path: Path) -> None:
    table = coverage(Digests.of(sweep(tmp_path)))
    names = [name for name, _ in table["levels"][0]]
    assert names[0] == "standard" and "sched 8/255" in names
    counts = [
        int(n) for _, line in table["rows"] for cell in line for n in re.findall(r"\d+", cell)
    ]
    assert sum(counts) == 10


def test_diagnosis_reads_the_curves(tmp_path: Path) -> None:
    digests = Digests.of(sweep(tmp_path))
    said = [digests.diagnosis(run) for run in digests.runs]
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
    text = written(results, tmp_path / "out")
    assert "each of the 14 (model, dataset) pairs are left out" in text
    assert "Validation accuracy, clean and under attack" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def test_page_works_in_a_browser(page: Path, browser: Any) -> None:
    tab = Tab(browser, page, viewport={"width": 390, "height": 844})
    sorts(tab)
    filters(tab)
    opens_a_run(tab)
    # readable on a phone: the page itself does not scroll sideways, wide tables do
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.wrong == []


def sorts(tab: Tab) -> None:
    header = tab.page.locator("#cells thead th").nth(4)
    for direction in ("ascending", "descending"):
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == direction
        shown = tab.column("cells", 5)
        values = [float(text) for text in shown if text[0].isdigit()]
        assert len(values) > 5
        assert values == sorted(values, reverse=direction == "descending")
        assert all(not text[0].isdigit() for text in shown[len(values) :])  # missing ones last


def filters(tab: Tab) -> None:
    tab.choose("setting", "sched")
    assert set(tab.column("cells", 4)) == {"sched"}
    assert tab.count("cells") == "4 of 12 results" and tab.count("runs") == "4 of 10 runs"
    tab.page.get_by_label("Search").fill("swin")
    assert set(tab.column("cells", 1)) == {"SWIN"}
    tab.page.get_by_role("button", name="Clear").click()
    assert tab.count("cells") == "12 of 12 results"


def opens_a_run(tab: Tab) -> None:
    tab.choose("state", "failed")
    button = tab.page.locator("#runs-table .open")
    assert button.count() == 1
    button.focus()
    tab.page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    detail = tab.page.locator("#runs-table .detail")
    detail.locator("pre").first.wait_for()
    assert "out of memory </script><b>boo" in detail.inner_text()
    assert "schedule.kind" in detail.inner_text() and "epoch 1" in detail.inner_text()
    assert detail.locator("svg path").count() == 2  # clean and adversarial; not evaluated yet
    tab.page.keyboard.press("Enter")  # it has kept the focus
    assert detail.count() == 0 and button.get_attribute("aria-expanded") == "false"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Path, browser: Any, scheme: str) -> None:
    tab = Tab(browser, page, color_scheme=scheme)
    assert unreadable(tab.page) == []


@pytest.mark.slow
def test_axe_finds_nothing_to_mend(page: Path, browser: Any) -> None:
    """On a dark phone, with a run opened, two compared and every block unfolded."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core").Axe()
    tab = Tab(browser, page, color_scheme="dark", viewport={"width": 390, "height": 844})
    tab.page.locator("#runs-table .open").first.click()
    tab.page.locator("#runs-table .detail pre").first.wait_for()
    for number in (0, 7):
        tab.page.locator("#runs-table input[type=checkbox]").nth(number).click()
    tab.page.locator("#chosen table").wait_for()
    tab.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = axe.run(tab.page).response
    assert [one["id"] for one in found["violations"]] == [] and len(found["passes"]) > 20
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_metric_that_no_evaluation_gives_is_no_missing_one(tmp_path: Path) -> None:
    """Judged at the training strength alone, as the sister benchmark does it."""
    runs = made.grid(("vit",), ("cars",), ("4/255",))
    at_once = EvalConfig.parse({"epsilons": ["0", "4/255"], "steps": 10})
    for run in runs:
        made.finish(tmp_path, run, at_once)
    digests = Digests.of(Results(tmp_path, made.manifest(tmp_path, runs, (at_once,))))
    core = unpacked(write(digests, tmp_path / "out", title="at once"))["core"]
    for table in ("cells", "runs"):
        keys = {column["key"] for column in core[table]["columns"]}
        assert {"clean", "adv"} <= keys and "expected" not in keys
    assert core["verdict"]["metrics"] == ["clean", "adversarial"]
    (compared,) = core["verdict"]["comparisons"]
    assert len(compared["pictures"][0]["pairs"][0]) == 2 + 2
    (best,) = core["verdict"]["best"]
    assert best["title"] == "Best setting by adversarial accuracy (%)" and len(best["rows"]) == 1


def test_a_sweep_that_is_judged_under_corruptions_alone(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",))
    for run in runs:
        made.start(tmp_path, run)
    asked = Corruptions()
    results = Results(tmp_path, made.manifest(tmp_path, runs, (asked,)))
    digests = Digests.of(results)
    assert write(digests, tmp_path / "out", title="noise").is_file()
    assert findings(digests)[0].startswith("Nothing to compare yet")

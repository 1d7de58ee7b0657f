"""The report on 1,440 runs in a real browser: what a reader does with it, and what it costs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drawn_sweep
import pytest
from browsing import Tab, chromium, unreadable

from analysis import Results
from analysis.report import Digests, write
from sweep.submit.submissions import manifest_row

RUNS = 1440
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    grid = drawn_sweep.draw(root, seeds=RUNS // drawn_sweep.PER_SEED, share_of_images=0.02)
    rows = [manifest_row(run) for run in grid.runs]
    read: list[int] = []
    digests = Digests.of(Results(root, rows), lambda: read.append(1))
    assert len(read) == RUNS, "a progress bar counts every run once"
    return write(digests, root / "out", title="drawn")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def test_the_page_is_small_and_holds_little_at_a_time(page: Path, browser: Any) -> None:
    assert page.stat().st_size < 5e6
    tab = Tab(browser, page)
    assert tab.page.evaluate("document.querySelectorAll('*').length") < 8000
    assert tab.count("runs") == "1440 of 1440 runs"
    assert tab.page.locator("#runs-table tr[data-run]").count() == 100
    tab.page.get_by_role("button", name="Next page of runs").click()
    assert "page 2 of 15" in tab.page.locator("#runs-host .pager").inner_text()
    # The head of a table that is scrolled under the bar of filters stays in sight below the bar.
    scrolled = """() => {
      const scroll = document.querySelector("#runs-host .scroll");
      window.scrollBy({ top: scroll.getBoundingClientRect().top + 100, behavior: "instant" });
    }"""
    seen = """() => {
      const bar = document.getElementById("filter").getBoundingClientRect();
      const { left } = document.querySelector("#runs-table").getBoundingClientRect();
      return document.elementFromPoint(left + 9, bar.bottom + 9).closest("thead") !== null;
    }"""
    tab.page.evaluate(scrolled)
    tab.page.wait_for_function(seen)
    assert tab.wrong == []


def test_a_permalink_restores_the_whole_view(page: Path, browser: Any) -> None:
    """What somebody filtered, sorted, grouped, opened and chose, somebody else sees."""
    tab = Tab(browser, page, color_scheme="dark")
    tab.choose("model", "SWIN")
    tab.choose("setting", "sched")
    tab.page.locator("#runs-table thead button", has_text="clean").click()
    tab.choose("group", "dataset")
    tab.page.locator("#runs-table .open").nth(3).click()
    boxes = tab.page.locator("#runs-table input[type=checkbox]")
    for number in (0, 7):
        boxes.nth(number).click()
    compared = tab.page.locator("#chosen")
    compared.locator("table").wait_for()
    other = Tab(browser, page, "#" + tab.page.evaluate("location.hash").removeprefix("#"))
    for place in ("#runs-host", "#cells-host", "#chosen"):
        other.page.locator("#chosen table").wait_for()
        other.page.locator("#runs-table .detail pre").first.wait_for()
        assert other.page.locator(place).inner_text() == tab.page.locator(place).inner_text()
    assert unreadable(tab.page) == [] and tab.wrong == [] and other.wrong == []


def test_runs_side_by_side_show_where_they_differ(page: Path, browser: Any) -> None:
    tab = Tab(browser, page)
    for name, value in (("model", "SWIN"), ("dataset", "Cars"), ("eps_g", "8/255")):
        tab.choose(name, value)
    assert tab.count("runs") == "24 of 1440 runs"
    boxes = tab.page.locator("#runs-table input[type=checkbox]")
    for number in (0, 23):
        boxes.nth(number).click()
    chosen = tab.page.locator("#chosen")
    chosen.locator("table").wait_for()
    fields = chosen.locator("tbody th").all_inner_texts()
    assert {"Setting", "clean", "schedule.kind"} <= {*fields}
    assert "Model" not in fields and "epsilon_g" not in fields, "what they share is left out"
    drawn = chosen.locator(".plots figcaption").all_inner_texts()
    assert len(drawn) == 3 and drawn[-1] == "Accuracy (%) under APGD-10", "an attack has a plot"
    assert chosen.locator(".plots figure").first.locator("path").count() == 2
    tab.page.get_by_role("button", name="Choose none").click()
    assert chosen.inner_text() == "No run is chosen."
    assert tab.wrong == []


def test_the_csv_holds_what_is_shown_on_every_page(page: Path, browser: Any) -> None:
    tab = Tab(browser, page)
    tab.choose("setting", "fix")
    tab.page.locator("#runs-table thead button", has_text="adv").click()
    with tab.page.expect_download() as found:
        tab.page.locator("#runs-host .save").click()
    assert found.value.suggested_filename == "drawn-runs.csv"
    with open(found.value.path(), newline="") as file:
        rows = list(csv.DictReader(file))
    assert tab.count("runs") == f"{len(rows)} of 1440 runs" and len(rows) > 100
    assert {row["setting"] for row in rows} == {"fix"} and len({row["id"] for row in rows}) > 100
    numbers = [float(row["adv"]) for row in rows if row["adv"]]
    assert numbers == sorted(numbers)


def test_the_verdict_compares_any_two_settings(page: Path, browser: Any) -> None:
    tab = Tab(browser, page)
    host = tab.page.locator("#verdict-host")
    assert "Sched instead of fix" in host.inner_text()
    assert host.locator(".picture").count() == 2, "one for each eps_g"
    for picture in host.locator(".picture").all():
        columns = picture.locator("thead th").all_inner_texts()
        assert columns == ["Aircraft", "Caltech", "Cars", "Cub", "Dogs"], "also where one lacks"
    bars = host.locator(".picture svg").first
    assert "adversarial +" in str(bars.get_attribute("aria-label"))
    tab.page.locator("#comparison").select_option("objective.kind: trades instead of at")
    assert host.locator("table").first.locator("tbody tr").count() == 2
    assert "comparison=objective.kind" in tab.page.evaluate("location.hash")
    assert tab.wrong == []


def test_groups_fold_and_carry_their_means(page: Path, browser: Any) -> None:
    tab = Tab(browser, page)
    tab.choose("group", "model")
    tab.choose("setting", "uniform")
    heads = tab.page.locator("#runs-table tr.group")
    assert "ViT 80 runs, means" in heads.first.inner_text()
    members = tab.column("runs-table", 9)[:80]
    clean = [float(text) for text in members if text]
    assert len(clean) > 70, "of those that failed there is none"
    assert f"{sum(clean) / len(clean):.2f}" in heads.first.inner_text()
    assert tab.column("runs-table", 3)[0] == "ViT"
    heads.first.locator("button").click()
    assert heads.first.locator("button").get_attribute("aria-expanded") == "false"
    assert tab.column("runs-table", 3)[0] == "SWIN"


def test_figures_follow_the_colours_and_open_large(page: Path, browser: Any) -> None:
    inks = {}
    for scheme in ("light", "dark"):
        tab = Tab(browser, page, color_scheme=scheme)
        figure = tab.page.locator("figure[data-packed]").first
        figure.scroll_into_view_if_needed()
        figure.locator("svg text").first.wait_for()
        look = "(node) => getComputedStyle(node).fill"
        inks[scheme] = figure.locator("svg text").first.evaluate(look)
        small = figure.locator("svg").bounding_box()["height"]
        figure.get_by_role("button", name="Open large").click()
        large = tab.page.locator("dialog[open] svg").bounding_box()
        assert large["height"] > small and large["width"] > 1000
        tab.page.keyboard.press("Escape")
        figure.locator("svg").wait_for()
        assert tab.wrong == []
    assert inks["light"] != inks["dark"]


def test_a_phone_can_read_it(page: Path, browser: Any) -> None:
    tab = Tab(browser, page, viewport={"width": 390, "height": 844})
    tab.page.locator("#runs-table .open").first.click()
    tab.page.locator("#runs-table .detail pre").first.wait_for()
    tab.page.locator("#coverage summary").click()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert unreadable(tab.page) == [] and tab.wrong == []

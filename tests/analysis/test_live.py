"""The served report: who may read it, what it tells, and a page that follows in a real browser."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import analysis_store as made
import pytest
from browsing import Tab, chromium

from analysis import Results
from analysis.report import Digests, core, details_of, page
from analysis.report.live import Live, Now, server

RUNS = {"one": ["running", "epoch 1/9", ""], "two": ["new", "", ""]}


def fixed(now: Callable[[], Now] = lambda: Now(RUNS, ["a line"], None)) -> Live:
    return Live(now, lambda: '{"tables": 1}', lambda: "<p>page", {"one": "{}"}.get)


@contextmanager
def served(live: Live) -> Iterator[str]:
    made, address = server(live)
    live.begin()
    threads = [threading.Thread(target=one) for one in (made.serve_forever, live.follow)]
    for thread in threads:
        thread.start()
    yield address
    live.stop()
    made.shutdown()
    made.server_close()
    for thread in threads:
        thread.join()


def status(address: str) -> int:
    try:
        with urlopen(address) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def test_only_who_knows_the_token_may_read_and_only_from_here() -> None:
    with served(fixed()) as address:
        assert address.startswith("http://127.0.0.1:")
        port, token = address.removeprefix("http://127.0.0.1:").rstrip("/").split("/")
        assert len(token) > 20
        assert status(address) == status(f"{address}state") == status(f"{address}run/one") == 200
        wrong = ("", "x/", "x/state", f"{token}x/", token, f"{token}/run/three", f"{token}/../etc")
        assert {status(f"http://127.0.0.1:{port}/{path}") for path in wrong} == {404}
        with urlopen(address) as answer:
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"


def test_a_question_is_answered_by_what_has_changed_since() -> None:
    now = Now(RUNS, ["a line"], None)
    live = fixed(lambda: now)
    live._take(now)
    state = json.loads(live.answer("state", {})[1])  # type: ignore[index]
    assert state == {"looks": 1, "version": 0, "lines": ["a line"], "runs": RUNS}
    live._take(Now(RUNS | {"two": ["running", "epoch 0/9", ""]}, [], None))
    state = json.loads(live.answer("state", {"since": ["1"]})[1])  # type: ignore[index]
    assert state["runs"] == {"two": ["running", "epoch 0/9", ""]}
    assert json.loads(live.answer("state", {"since": ["x"]})[1])["runs"].keys() == {"one", "two"}  # type: ignore[index]


@pytest.mark.slow
def test_a_page_follows_its_sweep(tmp_path: Path) -> None:
    runs = made.grid(("vit",), ("cars",), ("4/255",))
    for run in runs[:-1]:
        made.finish(tmp_path, run)
    last = made.start(tmp_path, runs[-1], 3)
    made.attempt(last, ended=None)
    rows = made.manifest(tmp_path, runs)
    told = {run.id: ["done", "", ""] for run in runs} | {runs[-1].id: ["running", "epoch 3/12", ""]}

    def read() -> Digests:
        return Digests.of(Results(tmp_path, rows, index=False))

    live = Live(
        lambda: Now(dict(told), [f"{len(told)} runs"], sorted(told.values())),
        core=lambda: core(read()),
        page=lambda: page(read(), "live", {}, live=True),
        run=lambda name: details_of(read(), name),
    )
    with served(live) as address, chromium() as browser:
        tab = Tab(browser, address)
        row = tab.page.locator("#runs-table tr[data-run]", has_text="running")
        row.locator("small", has_text="epoch 3/12").wait_for()
        tab.page.locator(".chips", has_text="1 running").wait_for()
        name = row.get_attribute("data-run")
        row.locator(".open").click()
        tab.page.locator(".detail svg").first.wait_for()
        made.finish(tmp_path, runs[-1])
        told[runs[-1].id] = ["done", "", ""]
        done = tab.page.locator(f'#runs-table tr[data-run="{name}"]')
        done.locator(".state", has_text="done").wait_for()
        # without a reload its accuracy is in the table, and it is still open
        done.locator("td:nth-child(8)", has_text=re.compile(r"\d\.\d")).wait_for()
        tab.page.locator("#cells-host", has_text="3 of 3 results").wait_for()
        tab.page.locator(f'tr[data-run="{name}"] + .detail svg').nth(1).wait_for()
        tab.page.locator(".chips", has_text="3 done").wait_for()
        choices = tab.page.locator("select[name=state] option").all_inner_texts()
        assert choices == ["all", "done"], "no state that no run is in"
        assert "3 runs" in tab.page.locator("#live-host").inner_text()
        live.answer = lambda *_: None  # type: ignore[method-assign]
        tab.page.locator("#live-host", has_text="does not answer").wait_for()
        assert not [text for text in tab.wrong if "404" not in text]

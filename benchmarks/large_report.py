"""Cost of making and opening the report of a large sweep, with gates.

    python benchmarks/large_report.py [--seeds 4 28] [--stores FOLDER] [--out PAGE.md]

Generates stores with 360 runs per seed (50 epochs, 17 strengths, a third of the images of the
paper's test splits) and calls `sweep report` twice: without and with an index. CPU seconds and
memory are those of the whole process, including the start of Python, the least of three calls, with
byte code cached as an installation caches it. Then Chromium opens the page:
measured are wall seconds until its tables are drawn, and the number of elements. Last, the CPU
share of a served report while a browser watches it for a minute. --stores keeps the stores, and
reuses those that exist. Writes benchmarks/results/large_report.md. Exit code 1 if a gate is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import RESULTS, Report
from status import SWEEP, environ

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import drawn_sweep
from browsing import chromium

SHARE_OF_IMAGES = 0.3
WATCHED_S = 60


def made(
    command: list[str], variables: dict[str, str], without: Path | None
) -> tuple[float, float]:
    """(CPU seconds, MB of peak memory) of a command; the fastest of three. without: a folder to
    remove before each call. Exits if the command fails."""
    best = (float("inf"), 0.0)
    for _ in range(3):
        if without:
            shutil.rmtree(without, ignore_errors=True)
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, env=variables, stdout=null, stderr=null)
        _, ended, used = os.wait4(process.pid, 0)
        if ended:
            sys.exit(f"{' '.join(command)}: exit status {ended}")
        best = min(best, (used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3))
    return best


def opened(page: Path, browser: Any) -> tuple[float, int]:
    """(wall seconds until a page's tables are drawn, number of elements); the fastest of three."""
    best, elements = float("inf"), 0
    for _ in range(3):
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        begun = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-ready]")
        best = min(best, time.perf_counter() - begun)
        elements = tab.evaluate("document.querySelectorAll('*').length")
        tab.close()
    return best, elements


def served(command: list[str], variables: dict[str, str], browser: Any) -> float:
    """CPU share of a report's server while a browser has the page open."""
    command = [*command, "--serve"]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    address = process.stdout.readline().split()[0]
    tab = browser.new_page()
    tab.goto(address, timeout=120_000)
    tab.wait_for_selector("#live-host .when")
    tab.wait_for_timeout(10_000)
    before, begun = _cpu(process.pid), time.perf_counter()
    tab.wait_for_timeout(1000 * WATCHED_S)
    share = (_cpu(process.pid) - before) / (time.perf_counter() - begun)
    tab.close()
    process.send_signal(signal.SIGTERM)
    process.wait()
    return share


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 28])
    parser.add_argument("--stores", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "large_report.md")
    options = parser.parse_args()
    page = Report("The report of a large sweep", __doc__.partition("\n\n")[2].strip())
    columns = ("runs", "made from", "CPU (s)", "MB", "page (MB)", "opens (s)", "elements")
    page.section("Making and opening it", *columns)
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        for seeds in options.seeds:
            runs = seeds * drawn_sweep.PER_SEED
            root = (options.stores or Path(scratch)) / str(runs)
            if not root.is_dir():
                drawn_sweep.draw(root, seeds, share_of_images=SHARE_OF_IMAGES)
            time.sleep(2.5)  # the index stores only files that have not changed for 2 s
            command = [*SWEEP, "report", str(root / "drawn.yaml"), "--root", str(root)]
            html = root / "reports" / "drawn" / "index.html"
            for source, without in (("folders", root / "index"), ("the index", None)):
                cpu, memory = made(command, environ(Path(scratch)), without)
                size, (seconds, elements) = html.stat().st_size / 1e6, opened(html, browser)
                page.row(runs, source, cpu, memory, size, seconds, elements)
                page.gate(f"{runs} runs from {source}: CPU seconds", cpu, 20)
                page.gate(f"{runs} runs from {source}: MB of memory", memory, 500)
            page.gate(f"{runs} runs: MB of the page", size, 5)
            page.gate(f"{runs} runs: seconds to open", seconds, 2)
            if seeds == options.seeds[0]:
                share = served(command, environ(Path(scratch)), browser)
                page.gate(f"{runs} runs: share of a core while served", share, 0.05)
    held = page.close()
    page.write(options.out)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

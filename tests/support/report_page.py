"""Reads what a report page carries packed."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

from analysis import Results
from analysis.report import Digests, write

PACKED = re.compile(r'<script type="text/plain" id="data-([\w-]+)">(.*?)</script>', re.DOTALL)


def unpacked(page: Path) -> dict[str, Any]:
    """Name -> data of everything in a page."""
    found = PACKED.findall(page.read_text())
    return {name: json.loads(gzip.decompress(base64.b64decode(text))) for name, text in found}


def all_text(page: Path) -> str:
    """What the page says, packed or not."""
    return page.read_text() + json.dumps(unpacked(page), ensure_ascii=False)


def written(results: Results, folder: Path, title: str = "made up") -> str:
    """All that the report on `results` says."""
    return all_text(write(Digests.of(results), folder, title=title))

"""CSV files with measurements, line by line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from core.config import ConfigError


def number(text: str) -> float:
    """The number in a cell; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_lines(
    file: Path | Traversable, columns: Sequence[str], passed_over: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields ('file:line', column -> cell) for each line of a CSV file; nothing if its header is
    exactly `passed_over`. Raises ConfigError for a file that cannot be read or lacks columns, and
    for a line with more or fewer cells than the header."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{file}: {reason}") from None
    reader = csv.DictReader(text.splitlines())
    header = reader.fieldnames or ()
    if header and [*header] == [*passed_over]:
        return
    missing = [name for name in columns if name not in header]
    if missing:
        raise ConfigError(
            f"{file}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)} "
            f"(expected {','.join(columns)}; got {','.join(header) or 'an empty file'})"
        )
    for line in reader:
        where = f"{file.name}:{reader.line_num}"
        if None in line or None in line.values():
            raise ConfigError(f"{where}: expected {len(header)} cells, as in the header")
        yield where, {name: cell.strip() for name, cell in line.items()}

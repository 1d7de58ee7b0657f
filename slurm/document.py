"""Strict YAML: the plain data of a file and the line of every key, so that errors can point there.

Used by `slurm.profile`. A repeated key, which YAML lets win silently, is an error here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]


class DocumentError(ValueError):
    """The text is not the YAML we accept; the message starts with `source:line:`."""


@dataclass(frozen=True)
class Document:
    """Plain data of one YAML text and where each of its keys stands."""

    source: str
    data: Any
    lines: dict[Path, int]

    def where(self, path: Path) -> str:
        """`source:line` of the deepest key of `path` the file has, or `source` alone."""
        known = next((p for p in _prefixes(path) if p in self.lines), None)
        return self.source if known is None else f"{self.source}:{self.lines[known]}"


def parse(text: str, source: str) -> Document:
    """Reads `text`; raises DocumentError on bad syntax and repeated keys."""
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # may be recursive, or expand without bound
                at = f":{event.start_mark.line + 1}" if event.start_mark else ""
                raise DocumentError(f"{source}{at}: aliases (*{event.anchor}) are not accepted")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        at = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DocumentError(f"{source}{at}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(f"{source}: not valid YAML: {error}") from error
    lines: dict[Path, int] = {}
    for path, line in _keys(root, ()):
        if path in lines:
            dotted = ".".join(map(str, path))
            raise DocumentError(f"{source}:{line}: {dotted}: already given on line {lines[path]}")
        lines[path] = line
    return Document(source, data, lines)


def _keys(node: yaml.Node | None, at: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*at, _key(key))
            yield path, key.start_mark.line + 1
            yield from _keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _keys(value, (*at, index))


def _key(node: yaml.Node) -> str:
    return node.value if isinstance(node.value, str) else "?"


def _prefixes(path: Path) -> Iterator[Path]:
    return (path[:size] for size in range(len(path), 0, -1))

"""Grids, run configs and profiles as plain data: YAML without surprises, with line numbers.

YAML 1.1 reads `12:00:00` as 43200, `010` as 8, `no` as false, `1e3` as text and `2024-01-31` as a
date. Here only Python's decimal literals are numbers (`12`, `-0.5`, `1e3`), only true and false are
booleans, and everything else is text, which its field accepts or rejects. Torch-free.
"""

from __future__ import annotations

import math
import re
import reprlib
from typing import Any, Protocol

import yaml

from core.config import credentials
from core.errors import ConfigError

__all__ = ["ConfigError", "Document", "Place", "dotted", "read_text"]

Place = tuple[str | int, ...]
"""Path of keys and list indices to a value in a file: ('grid', 'dataset', 2)."""

_TAG = "tag:yaml.org,2002:"
_NUMBERS = {f"{_TAG}int", f"{_TAG}float"}


_DEEPEST = 64
"""Levels of nesting accepted. Far more than a grid has, and few enough that reading them never
meets Python's recursion limit, which other packages in the process may have moved."""


class _Loader(yaml.SafeLoader):
    """Words and numbers as in YAML 1.2, without octal, hexadecimal, infinite and NaN numbers."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {_DEEPEST} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(0|[1-9][0-9]*)?(?<=[0-9])(\.[0-9]*)?([eE][-+]?[0-9]+)?"
        r"|[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?",
        [*"-+0123456789."],
    ),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})\\Z"), _first)
_LOADER: Any = _Loader("")


class Readable(Protocol):
    """A path, or a file inside a package."""

    def read_bytes(self) -> bytes: ...


def read_text(file: Readable, source: str) -> str:
    """The text of `file`, which messages call `source`. Raises ConfigError if it cannot be read or
    is not UTF-8."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from None


class Document:
    """A YAML text, its data, and every problem found in it so far.

    source: how messages name the file. Raises ConfigError if the text is invalid or ambiguous; a
    repeated key is only noted, so that other problems can be reported with it.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._found: dict[str, int] = {}
        self._lines: dict[Place, int] = {}
        self._nodes: set[int] = set()
        self._misleading = False
        for number, line in enumerate(text.splitlines(), 1):
            if credentials.is_value(line):
                self.problem((), credentials.ADVICE, number)
        self.check()  # other problems with such a line would quote the secret
        self.data: Any = self._read(text)

    @property
    def faults(self) -> int:
        """Number of problems noted so far."""
        return len(self._found)

    @property
    def places(self) -> list[Place]:
        """Every key and list item, in the order of the file."""
        return list(self._lines)

    def problem(self, place: Place, message: str, line: int = 0) -> None:
        """Note a problem, at the line of `place` unless `line` is given; `message` should begin
        with the key."""
        line = line or self.line(place)
        where = f"{self.source}:{line}" if line else self.source
        self._found.setdefault(f"{where}: {message}", line)

    def line(self, place: Place) -> int:
        """The line number, from 1, of `place` or else of its closest parent; 0 if it has none."""
        prefixes = (place[:size] for size in range(len(place), 0, -1))
        return next((self._lines[known] for known in prefixes if known in self._lines), 0)

    def check(self) -> None:
        """Raises ConfigError with all problems noted, in the order of the file, if any."""
        if self._found:
            raise ConfigError(*sorted(self._found, key=self._found.__getitem__))

    def refuse(self, place: Place, message: str) -> None:
        """Note a problem that makes the text ambiguous, so that `data` is not built from it."""
        self.problem(place, f"{dotted(place)}: {message}" if place else message)
        self._misleading = True

    def _read(self, text: str) -> Any:
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            if root is None:
                return None
            self._index(root, ())
            if self._misleading:
                self.check()
            return loader.construct_document(root)
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ConfigError(f"{self.source}{line}: not valid YAML: {error.problem}") from None
        except yaml.reader.ReaderError as error:
            line = f":{text[: error.position].count(chr(10)) + 1}"
            character = f"unexpected character #x{ord(text[error.position]):04x}"
            raise ConfigError(f"{self.source}{line}: not valid YAML: {character}") from None

    def _index(self, node: yaml.Node, place: Place) -> None:
        """Note the line of everything below `node`, and YAML features that are not accepted."""
        if id(node) in self._nodes:
            return self.refuse(place, "aliases (*) are not accepted, they may nest without end")
        self._nodes.add(id(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self.refuse(place, f"expected a plain value, got one tagged {_short(node.tag)}")
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*place, str(key.value) if isinstance(key, yaml.ScalarNode) else "?")
                self._index_key(key, here)
                if isinstance(value, yaml.ScalarNode) and credentials.is_name(str(here[-1])):
                    self.refuse(here, credentials.ADVICE)
                self._index(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._lines[*place, number] = item.start_mark.line + 1
                self._index(item, (*place, number))
        elif isinstance(node, yaml.ScalarNode):
            self._index_scalar(node, place)

    def _index_key(self, key: yaml.Node, here: Place) -> None:
        line = key.start_mark.line + 1
        if here in self._lines:
            message = f"{dotted(here)}: given twice, first on line {self._lines[here]}"
            return self.problem(here, message, line)
        self._lines[here] = line
        if key.tag != f"{_TAG}str":
            self.refuse(here, "a key must be text, put quotes around it")

    def _index_scalar(self, node: yaml.ScalarNode, place: Place) -> None:
        if credentials.is_value(node.value):  # it spans lines, which are checked one by one
            self.refuse(place, credentials.ADVICE)
        plain = not node.style and _LOADER.resolve(yaml.ScalarNode, node.value, (True, False))
        if node.tag not in (f"{_TAG}str", plain):
            tag = _short(node.tag)
            self.refuse(place, f"expected a plain value, got {node.value!r} tagged {tag}")
        elif node.tag in _NUMBERS and not _in_range(node.value):
            self.refuse(place, f"the number {reprlib.repr(node.value)} is out of range")


def _in_range(text: str) -> bool:
    """Whether a float can hold the number: 1e999 would become infinite and 1e-999 zero."""
    value = float(text)
    nothing = not re.search("[1-9]", re.split("[eE]", text)[0])
    return math.isfinite(value) and (value != 0 or nothing)


def _short(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag


def dotted(place: Place) -> str:
    """('grid', 'dataset', 2) as 'grid.dataset.2'."""
    return ".".join(map(str, place))

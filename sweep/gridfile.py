"""A grid file as plain data: strict YAML, `${...}` resolved, and the line of every key.

What is wrong with the file is noted here as it is found, by the reader and by `sweep.grid`, and
raised in one go, each problem as one line `file:LINE: key: what came, what was expected`.
"""

from __future__ import annotations

import functools
import operator
import re
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.config import ConfigError

Place = tuple[str | int, ...]
"""Where something stands in a file, from the top: ('grid', 'dataset', 2)."""


class _Loader(yaml.SafeLoader):
    """YAML without dates: `2024-01-31` stays text, as it must for JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class GridFile:
    """One text, its data, and every problem found in it so far.

    text: the YAML. source: how problems name the file. Raises ConfigError where there is no
    telling what the text means; a repeated key is a problem like others, and reading goes on.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._found: dict[str, int] = {}
        self._lines: dict[Place, int] = {}
        self._nodes: set[int] = set()
        self._interpolated: list[Place] = []
        self._misleading = False
        self.data: dict[str, Any] = self._read(text)

    @property
    def faults(self) -> int:
        """How many problems so far."""
        return len(self._found)

    @property
    def places(self) -> list[Place]:
        """Every key and list item of the file, from its beginning."""
        return list(self._lines)

    def problem(self, place: Place, message: str, line: int = 0) -> None:
        """Note one problem, at the line of `place` if not told; `message` begins with its key."""
        line = line or self.line(place)
        where = f"{self.source}:{line}" if line else self.source
        self._found.setdefault(f"{where}: {message}", line)

    def line(self, place: Place) -> int:
        """The line, from 1, of `place` or of what holds it; 0 where the file has neither."""
        prefixes = (place[:size] for size in range(len(place), 0, -1))
        return next((self._lines[known] for known in prefixes if known in self._lines), 0)

    def check(self) -> None:
        """Raises ConfigError with every problem, in the order of the file."""
        if self._found:
            raise ConfigError(*sorted(self._found, key=self._found.__getitem__))

    def _read(self, text: str) -> dict[str, Any]:
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                raise ConfigError(f"{self.source}: expected a mapping with the keys name and grid")
            self._index(root, ())
            if self._misleading:
                self.check()
            return self._resolved(loader.construct_document(root))
        except ConfigError:
            raise
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ConfigError(f"{self.source}{line}: not valid YAML: {error.problem}") from None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise ConfigError(f"{self.source}: not valid YAML: {_first_line(error)}") from None

    def _refuse(self, place: Place, message: str) -> None:
        self.problem(place, f"{_dotted(place)}: {message}")
        self._misleading = True

    def _index(self, node: yaml.Node, place: Place) -> None:
        """Note the line of everything below `node`, and what we do not accept of YAML."""
        if id(node) in self._nodes:
            return self._refuse(place, "aliases (*) may recur without end, use ${...} instead")
        self._nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*place, str(key.value))
                self._index_key(key, here)
                self._index(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._lines[*place, number] = item.start_mark.line + 1
                self._index(item, (*place, number))
        elif "${" in node.value:
            self._interpolated.append(place)
            if re.search(r"\$\{\s*oc\.env\b", node.value):
                self._refuse(place, "a grid means the same everywhere, it reads no environment")

    def _index_key(self, key: yaml.Node, here: Place) -> None:
        line = key.start_mark.line + 1
        if here in self._lines:
            message = f"{_dotted(here)}: given twice, first on line {self._lines[here]}"
            return self.problem(here, message, line)
        self._lines[here] = line
        if key.tag != "tag:yaml.org,2002:str":
            self._refuse(here, "a key is text, put quotes around it")

    def _resolved(self, data: dict[str, Any]) -> dict[str, Any]:
        """`data` with every ${...} replaced by what it names in this file."""
        if not self._interpolated:
            return data
        places = {_dotted(place): place for place in self._interpolated}
        try:
            config = OmegaConf.create(data)
        except OmegaConfBaseException as error:
            key = re.sub(r"\[(\d+)\]", r".\1", str(error.full_key))
            self.problem(places.get(key, ()), f"{key}: {_first_line(error)}")
        else:
            for key, place in places.items():
                try:
                    functools.reduce(operator.getitem, place, config)
                except (OmegaConfBaseException, RecursionError) as error:
                    self.problem(place, f"{key}: {_first_line(error)}")
        self.check()
        return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

"""A grid file as plain data, with every `${...}` replaced by the value it names in the same file.

Problems are noted as they are found, here and by the rest of `sweep.grid`, and raised together, one
line each: `file:LINE: key: what came, what was expected`.
"""

from __future__ import annotations

import functools
import operator
import re
from typing import Any, cast

import yaml

from core.config import ConfigError
from core.config.document import Document, Place, dotted

__all__ = ["GridFile", "Place"]

LARGEST = 100_000
"""Maximum number of characters and values that a reference may expand to: ten lines that each name
the line before ten times would make 10^10."""
DEEPEST = 20
"""Longest chain of references; OmegaConf follows chains by recursion, anew for every place."""
_REFERENCE = re.compile(r"\$\{(\.*)([\w-]+(?:\.[\w-]+|\[\w+\])*)\}")
"""`${key.key}`; leading dots make it relative to its place. Nothing else is resolved: OmegaConf
would also read the environment and call functions by computed names."""


class GridFile(Document):
    """A document that is a mapping, with its references resolved. Raises ConfigError for bad YAML,
    another type, or a bad reference."""

    data: dict[str, Any]

    def __init__(self, text: str, source: str) -> None:
        self._interpolated: dict[Place, str] = {}
        super().__init__(text, source)
        if not isinstance(self.data, dict):
            raise ConfigError(f"{source}: expected a mapping with the keys name and grid")
        if self._interpolated:
            self._check_size()
            self.data = self._resolved()

    def _index_scalar(self, node: yaml.ScalarNode, place: Place) -> None:
        super()._index_scalar(node, place)
        if "${" in node.value:
            self._interpolated[place] = node.value
            if "${" in _REFERENCE.sub("", node.value):
                wanted = "expected ${key.key}, the place of a value in this file"
                self.refuse(place, f"{wanted}, got {node.value!r:.80}")

    def _check_size(self) -> None:
        """Refuse references that are circular or expand too far, before any is resolved."""
        known: dict[Place, tuple[int, int]] = {}
        for place in self._interpolated:
            size, hops = self._weigh(place, (), known)
            if size > LARGEST:
                self.refuse(place, f"becomes {size} characters and values, at most {LARGEST}")
                break  # references to it are larger still
            if hops > DEEPEST:
                self.refuse(
                    place, f"is a chain of {hops} references, at most {DEEPEST} are allowed"
                )
                break
        self.check()

    def _weigh(
        self, place: Place, chain: tuple[Place, ...], known: dict[Place, tuple[int, int]]
    ) -> tuple[int, int]:
        """(characters and values below `place` with references resolved, longest chain of
        references there). chain: the places of the references that led here."""
        if place in chain:
            self.refuse(place, "refers to itself")
        if place in known or place in chain:
            return known.get(place, (0, 0))
        value = functools.reduce(operator.getitem, place, cast("Any", self.data))
        parts: list[tuple[int, int]] = []
        if isinstance(value, dict | list):
            keys = value if isinstance(value, dict) else range(len(value))
            parts = [self._weigh((*place, key), chain, known) for key in keys]
        elif place in self._interpolated:
            found = [self._target(place, *names) for names in _REFERENCE.findall(value)]
            weights = [self._weigh(target, (*chain, place), known) for target in found if target]
            parts = [(size, hops + 1) for size, hops in weights]
        own = 1 if isinstance(value, dict | list) else len(str(value))
        known[place] = own + sum(size for size, _ in parts), max((h for _, h in parts), default=0)
        return known[place]

    def _target(self, place: Place, dots: str, name: str) -> Place | None:
        """The place that a reference at `place` names; None if there is none, which OmegaConf
        reports."""
        steps: tuple[str | int, ...] = tuple(re.findall(r"[\w-]+", name))
        value: Any = self.data
        found: Place = ()
        for step in (*place[: -len(dots)], *steps) if dots else steps:
            if isinstance(value, str) and "${" in value:
                self.refuse(place, f"{dotted(found)} is a reference itself, name its target")
                return None
            try:
                key = range(len(value))[int(step)] if isinstance(value, list) else str(step)
                value = value[key]
            except (LookupError, TypeError, ValueError):
                return None
            found = (*found, key)
        return found

    def _resolved(self) -> dict[str, Any]:
        from omegaconf import OmegaConf  # 0.08 s to import, and most files have no reference
        from omegaconf.errors import OmegaConfBaseException

        places = {dotted(place): place for place in self._interpolated}
        try:
            config = OmegaConf.create(self.data)
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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

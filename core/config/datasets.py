"""The registry of datasets, read from datasets.yaml."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict


class Archive(BaseModel):
    """One official file of a release; md5 is None if no checksum is published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    url: str
    md5: str | None = None


class Entry(BaseModel):
    """What is known of one dataset; datasets.yaml explains the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    classes: int
    parts: dict[str, int]
    splits: dict[str, int]
    test_share: float | None = None
    train_each: int | None = None
    val_share: float | None = None
    test_images: int | None = None
    marks: tuple[str, ...]
    archives: tuple[Archive, ...]
    inner: tuple[str, ...] = ()
    page: str
    licence: str
    size: str
    note: str


@cache
def entries() -> dict[str, Entry]:
    """Name -> entry, in the order of datasets.yaml."""
    text = resources.files("core.config").joinpath("datasets.yaml").read_text("utf-8")
    return {name: Entry(**entry) for name, entry in yaml.load(text, yaml.CSafeLoader).items()}

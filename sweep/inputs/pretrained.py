"""`sweep weights`: list pretrained weights, fetch them on a login node, verify them.

timm's weights are in the cache of the Hugging Face hub, others in <root>/weights; runs read both
without internet access. The profile's environment says where the cache is (HF_HOME, HF_HUB_CACHE),
as this may differ between clusters.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rich.text import Text

from core.config import ConfigError
from core.config.registry import Backbone, backbone, backbone_problem, backbones, hub_repo
from core.data import inputs
from core.errors import first_line
from core.sheet import Sheet
from core.store.files import write_atomic, write_text
from core.store.folders import Store
from slurm.profile import Profile


def hub_of(profile: Profile) -> Path:
    """The hub cache that jobs under a profile use. Raises ConfigError if its path contains a
    variable that is not set here."""
    given = {name: os.path.expandvars(str(value)) for name, value in profile.env.items()}
    hub = inputs.hub_cache({**os.environ, **given})
    if "$" in str(hub):
        raise ConfigError(f"profile {profile.name}: env: {hub}: a variable in it is not set here")
    return hub


def required_hub(profile: Profile) -> Path | None:
    """The cache in which runs under a profile must find their weights, or None if they may download
    them. Jobs on other machines never download: nodes may lack internet access, and all would fetch
    the same file."""
    environ = os.environ | {name: str(value) for name, value in profile.env.items()}
    return hub_of(profile) if profile.remote or inputs.is_offline(environ) else None


def entries(names: Iterable[str]) -> dict[str, Backbone]:
    """The named backbones; all of the registry if no name is given. Raises ConfigError for an
    unknown name."""
    names = list(names)
    problems = [problem for name in names if (problem := backbone_problem(name))]
    if problems:
        raise ConfigError(*problems)
    return {name: backbone(name) for name in names} if names else backbones()


def place(name: str, store: Store, hub: Path) -> Path | None:
    """The file with the weights of a backbone; None if it is not here."""
    checkpoint = backbone(name).checkpoint
    if checkpoint:
        with suppress(ConfigError):
            return inputs.weights_file(checkpoint.file, store)
        return None
    repo = hub_repo(name)
    return inputs.cached_weights(repo, hub) if repo else None


def rows(names: Iterable[str], store: Store, hub: Path) -> list[dict[str, Any]]:
    """The shape of `sweep weights list --json`."""
    found = []
    for name, entry in entries(names).items():
        path = place(name, store, hub)
        row = {"name": name, **entry.model_dump(), "hub": hub_repo(name)}
        found.append(row | {"file": str(path) if path else None})
    return found


def table(names: Iterable[str], store: Store, hub: Path) -> Sheet:
    """One line per backbone: what it is, where its weights come from, whether they are here."""
    shown = Sheet("name", "pretraining", "reference", ">params", "licence", "source", "here")
    for name, entry in entries(names).items():
        source = entry.checkpoint.file if entry.checkpoint else hub_repo(name) or "-"
        here = Text("yes", style="green") if place(name, store, hub) else Text("no")
        millions = f"{entry.params / 1e6:.1f} M" if entry.params else ""
        shown.add_row(
            name, entry.pretraining, entry.reference, millions, entry.licence or "?", source, here
        )
    return shown


def fetch(name: str, store: Store, hub: Path) -> Path:
    """Download the weights of a backbone to where its runs look for them, unless they are there;
    returns the file. Raises ConfigError, one line."""
    found = place(name, store, hub)
    if found:
        return found
    checkpoint, repo = backbone(name).checkpoint, hub_repo(name)
    if checkpoint and checkpoint.url:
        return _fetch_url(checkpoint.url, store.weights / checkpoint.file)
    if checkpoint:
        wanted = store.weights / checkpoint.file
        how = f"sweep weights convert FILE --to {wanted.with_suffix('.safetensors')}"
        raise ConfigError(
            f"weights of {name}: cannot be downloaded; put the file at {wanted}, or run: {how}"
        )
    if repo is None:
        raise ConfigError(f"weights of {name}: timm has no repository for them")
    return _fetch_hub(name, repo, hub)


def _fetch_hub(name: str, repo: str, hub: Path) -> Path:
    """Download the file that timm would use, to the cache where it looks."""
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # not a line for every retry
    for file in inputs.HUB_FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, file, cache_dir=hub))
        except errors.LocalEntryNotFoundError as error:
            reason = first_line(error.__cause__ or error)
            raise ConfigError(f"weights of {name}: cannot reach the hub ({reason})") from None
        except errors.RepositoryNotFoundError:
            raise ConfigError(f"weights of {name}: the hub has no {repo}") from None
        except errors.EntryNotFoundError:
            continue
        except (OSError, errors.HfHubHTTPError) as error:
            raise ConfigError(f"weights of {name}: {repo}: {first_line(error)}") from None
    raise ConfigError(f"weights of {name}: {repo} has none of {', '.join(inputs.HUB_FILES)}")


def _fetch_url(url: str, path: Path) -> Path:
    """Download one file and write its checksum beside it."""
    import urllib.error  # 0.03 s to import, with TLS; plans download nothing
    import urllib.request

    digest = hashlib.sha256()

    def write(file: IO[bytes]) -> None:
        with urllib.request.urlopen(url, timeout=60) as answer:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
            # urllib reports a broken connection as the end of the file.
            if file.tell() < int(answer.headers.get("Content-Length") or 0):
                raise ConnectionError("the connection was interrupted")

    try:
        write_atomic(path, write)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ConfigError(f"{url}: cannot be downloaded ({first_line(error)})") from None
    write_text(_note(path), f"{digest.hexdigest()}  {path.name}\n")
    return path


def _note(path: Path) -> Path:
    """The file with the checksum of a local file, in the format of sha256sum."""
    return path.with_name(f"{path.name}.sha256")


def verify(names: Iterable[str], store: Store, hub: Path) -> Iterator[tuple[str, str, bool]]:
    """(name, finding, whether it is fine) for the weights that are here, or for all named ones.

    The hub names its blobs by their checksum; local files may have a .sha256 file beside them.
    """
    named = list(names)
    for name in entries(named):
        path = place(name, store, hub)
        if path is None:
            if named:
                yield name, "not here; run: sweep weights fetch " + name, False
            continue
        yield name, *_compare(path)


def _compare(path: Path) -> tuple[str, bool]:
    blob = path.resolve().name
    noted = _note(path).read_text("utf-8").split()[:1] if _note(path).is_file() else [blob]
    if not noted or len(noted[0]) != 64:
        return f"{path}: here, no checksum to compare with", True
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == noted[0]:
        return f"{path}: fine", True
    return f"{path}: differs from its checksum; delete it and fetch it again", False

"""A user's own image folder: <folder>/{train,val,test}/<class>/<image>.

The rules for what is a class and an image, shared by the readers of releases with class folders:

* A class is a visible folder of a split; links to folders count.
* An image is a visible plain file whose name ends in one of IMAGES, in upper or lower case.
* Everything else is ignored and counted: hidden files and folders, files with other endings.
* Likely mistakes are problems: a class without images, a broken link, a folder with images inside
  a class, a single class, classes that differ between splits or only by case.

Reads only names and opens no file, so that `sweep launch` can afford it. Imports neither torch nor
numpy.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.config import ConfigError

SPLITS = ("train", "val", "test")
IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File endings of the formats for single images that Pillow reads without plugins."""
SYSTEM = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)
"""Folders that macOS archives, Synology, Windows and ext4 create on their own."""

Files = dict[str, dict[str, list[Path]]]
"""split -> class -> image files, all sorted."""


@dataclass
class Survey:
    """What a folder contains. `problems` and `remarks` are complete messages; if there are
    problems, `files` may be incomplete."""

    files: Files = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a name cannot be a class or an image: .ipynb_checkpoints, macOS's ._x.jpg, @eaDir."""
    return name.startswith(".") or name in SYSTEM


def class_folders(folder: Path) -> list[str]:
    """Names of the visible folders in `folder`, sorted. Raises OSError."""
    return sorted(e.name for e in os.scandir(folder) if not is_hidden(e.name) and _is_folder(e))


def image_names(folder: Path, endings: tuple[str, ...] = IMAGES) -> list[str]:
    """Visible names in `folder` that end like an image, sorted. Raises OSError."""
    return sorted(n for n in os.listdir(folder) if not is_hidden(n) and _ends(n, endings))


def checked(folder: Path) -> Survey:
    """The survey of a folder. Raises ConfigError with the first problem, if there is any."""
    found = survey(folder)
    if found.problems:
        more = len(found.problems) - 1
        hint = f" (and {more} more, run: sweep data verify {folder})" if more else ""
        raise ConfigError(found.problems[0] + hint)
    return found


def image_files(folder: Path) -> Files:
    """The images of a user's folder. Raises ConfigError as `checked` does."""
    return checked(folder).files


def survey(folder: Path) -> Survey:
    """List the classes and images of a user's folder by the rules at the top of this module."""
    found = Survey()
    if not any((folder / split).is_dir() for split in SPLITS):
        found.files |= {split: {} for split in SPLITS}
        found.problems.append(_not_laid_out(folder))
        return found
    for split in SPLITS:
        found.files[split] = _split(folder, split, found)
    if not found.problems:
        found.problems += _disagreements(folder, found.files)
    return found


def shown(path: Path | str) -> str:
    """A path as printable text; bytes that are not UTF-8 become escapes such as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _not_laid_out(folder: Path) -> str:
    """What is wrong with a folder that has none of the splits."""
    if folder.is_dir():
        return f"{folder}: expected the folders train, val and test, found {_listed(folder)}"
    return f"{folder}: no such folder (expected {folder}/{{train,val,test}}/<class>/)"


def _listed(folder: Path) -> str:
    return ", ".join(sorted(map(shown, os.listdir(folder)))[:6]) or "nothing"


def _split(folder: Path, split: str, found: Survey) -> dict[str, list[Path]]:
    path, left = folder / split, Counter[str]()
    if not path.is_dir():
        found.problems.append(
            f"{path}: no such folder "
            f"(expected {folder}/{{train,val,test}}/<class>/, found {_listed(folder)})"
        )
        return {}
    classes = {}
    for entry in _entries(path, found):
        if is_hidden(entry.name):
            left["hidden"] += 1
        elif _is_folder(entry):
            problem = _bad_name(entry.path)
            found.problems += [problem] if problem else []
            classes[entry.name] = _class(Path(entry.path), split, left, found)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            found.problems.append(_broken(entry.path))
        else:
            left[_kind(entry.name)] += 1
    if left:
        found.remarks.append(f"{split}: left out {_counts(left)}")
    return classes


def _class(folder: Path, split: str, left: Counter[str], found: Survey) -> list[Path]:
    """The images of a class; adds counts of ignored files to `left`, and problems to `found`."""
    images, other = [], Counter[str]()
    before = len(found.problems)
    for entry in _entries(folder, found):
        if is_hidden(entry.name):
            other["hidden"] += 1
        elif _is_folder(entry):
            other["folders"] += 1
            if _holds_images(entry.path):
                found.problems.append(
                    f"{shown(entry.path)}: a folder with images inside a class; "
                    "images are expected directly in the class folder"
                )
        elif not _ends(entry.name, IMAGES):
            other[_kind(entry.name)] += 1
        else:
            problem = _bad_image(entry)  # such as a pipe: opening it would wait forever
            if problem:
                found.problems.append(problem)
            else:
                images.append(Path(entry.path))
    left.update(other)
    if not images and len(found.problems) == before:
        if split == "train" or other:
            said = f" but {_counts(other)} (images end in {', '.join(IMAGES)})" if other else ""
            found.problems.append(f"{shown(folder)}: expected images, found none{said}")
        else:
            found.remarks.append(f"{split}: no image of class '{folder.name}'")
    return images


def _disagreements(folder: Path, files: Files) -> Iterator[str]:
    """Problems between splits and classes that are each valid by themselves."""
    train = files["train"]
    for split in SPLITS:
        if not any(files[split].values()):
            yield f"{folder / split}: expected images, found none"
    spelt: dict[str, str] = {}
    for name in train:
        twin = spelt.setdefault(_alike(name), name)
        if twin != name:
            yield f"{folder / 'train'}: the classes '{twin}' and '{name}' differ only by case"
    for split in SPLITS:
        differing = sorted(set(train) ^ set(files[split]))
        if differing:
            name = differing[0]
            side, others = ("only", train) if name in files[split] else ("missing", files[split])
            twin = next((f", spelt like '{n}'" for n in others if _alike(n) == _alike(name)), "")
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            yield (
                f"{folder / split}: expected the {len(train)} class folders of train, "
                f"'{name}' is {side} there{twin}{more}"
            )
    if len(train) == 1:
        yield f"{folder / 'train'}: expected at least 2 classes, found one: '{next(iter(train))}'"


def _entries(folder: Path, found: Survey) -> Iterable[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(f"{shown(folder)}: cannot be read ({error.strerror})")
        return ()


def is_plain(entry: os.DirEntry[str]) -> bool:
    """Whether this is a file or a link to one; needs a system call for links only."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _bad_image(entry: os.DirEntry[str]) -> str | None:
    """Why this cannot be used as an image; None if no reason is known."""
    if not is_plain(entry):
        return (
            _broken(entry.path) if entry.is_symlink() else f"{shown(entry.path)}: not a plain file"
        )
    return _bad_name(entry.path)


def _broken(link: str) -> str:
    return f"{shown(link)}: a link to {shown(os.readlink(link))}, which cannot be opened"


def _bad_name(path: str) -> str | None:
    name = os.path.basename(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"{shown(path)}: a name that is not UTF-8; rename it (convmv does whole folders)"
    return None


def _holds_images(folder: str) -> bool:
    return any(
        not is_hidden(name) and _ends(name, IMAGES)
        for _, _, names in os.walk(folder)
        for name in names
    )


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    return name.lower().endswith(endings)


def _kind(name: str) -> str:
    return shown(os.path.splitext(name)[1].lower()) or "without an ending"


def _counts(left: Counter[str]) -> str:
    """'12 .gif, 3 hidden', the most frequent first."""
    kinds = left.most_common()
    more = f", {sum(n for _, n in kinds[6:])} others" if len(kinds) > 6 else ""
    return ", ".join(f"{count} {kind}" for kind, count in kinds[:6]) + more


def _alike(name: str) -> str:
    """A form that is equal for names that some file systems treat as the same: Red and red, or an
    accented letter encoded as one character or as two (macOS)."""
    return unicodedata.normalize("NFC", name).casefold()

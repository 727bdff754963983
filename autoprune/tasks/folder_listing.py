"""Which files of each class a folder holds: ``PATH/train/cat/1.jpg``, ``PATH/val/…`` and perhaps ``PATH/test/…``.

Only names are read here; ``image_folder.py`` decides how images are read, ``audio_folder.py`` reads sounds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import DataError

_PROGRAMS_OWN = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found")  # of zips, Python, disks


@dataclass(frozen=True)
class FileKind:
    """What is looked for: what one file of it is called, and the endings of their names."""

    noun: str
    suffixes: tuple[str, ...]


IMAGES = FileKind("image", (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"))
SOUNDS = FileKind("WAV file", (".wav", ".wave"))


@dataclass(frozen=True)
class Listing:
    """The files of one split, sorted, with a label for each."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def list_split(folder: Path, kind: FileKind = IMAGES) -> Listing:
    """Return the files of one split: those in each class folder and the folders below it, but for hidden ones.

    Raises:
        DataError: if the folder is missing, or it or one of its class folders holds no such file.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {str(folder)!r}; expected {folder.parent.name}/train, {folder.parent.name}/val and "
            f"perhaps a test beside them, each with one folder of {kind.noun}s for every class"
        )
    return list_classes(folder, class_folders(folder), kind)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders that may be classes, sorted."""
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)))


def list_classes(folder: Path, names: tuple[str, ...], kind: FileKind) -> Listing:
    """Return the files in these class folders and the folders below them, but for hidden ones.

    Raises:
        DataError: if there is none in all of them, or in one.
    """
    found = [(file, label) for label, name in enumerate(names) for file in _files_in(folder / name, kind)]
    if not found:
        known = ", ".join(kind.suffixes)
        raise DataError(f"{str(folder)!r} holds no {kind.noun} in any class folder; known endings: {known}")
    empty = sorted(set(range(len(names))) - {label for _, label in found})
    if empty:
        raise DataError(
            f"the class folder {str(folder / names[empty[0]])!r} holds no {kind.noun}; fill it or remove it"
        )
    return Listing(names, tuple(file for file, _ in found), tuple(label for _, label in found))


def _files_in(folder: Path, kind: FileKind) -> list[Path]:
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]  # which os.walk then leaves out
        files += [Path(where) / name for name in names if not _is_hidden(name)]
    return sorted(file for file in files if file.suffix.lower() in kind.suffixes)


def _is_hidden(name: str) -> bool:
    """Return whether a file or folder is a program's own, such as Jupyter's copies of images it has shown.

    >>> [_is_hidden(name) for name in (".ipynb_checkpoints", "._cat.png", "__MACOSX", "cat.png")]
    [True, True, True, False]
    """
    return name.startswith(".") or name in _PROGRAMS_OWN


def check_classes(listings: dict[str, Listing], root: Path) -> None:
    """Raise if there is one class only, or the splits have different classes.

    Raises:
        DataError: naming the classes.
    """
    classes = listings["train"].class_names
    if len(classes) < 2:
        raise DataError(f"{str(root / 'train')!r} has one class folder only, {classes[0]!r}; expected two or more")
    for split, listing in listings.items():
        differing = sorted(set(classes) ^ set(listing.class_names))
        if differing:
            raise DataError(
                f"{str(root / 'train')!r} and {str(root / split)!r} have different class folders: "
                f"{', '.join(differing[:5])} in one of them only; give every split the same ones"
            )

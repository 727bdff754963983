"""Which images a folder holds: ``PATH/train/cat/1.jpg``, ``PATH/val/…`` and perhaps ``PATH/test/…``.

Only names are read here; ``image_folder.py`` decides how the images are read, ``streaming.py`` reads them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import DataError

_PROGRAMS_OWN = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found")  # of zips, Python, disks
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Listing:
    """The files of one split, sorted, with a label for each."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def list_split(folder: Path) -> Listing:
    """Return the images of one split: those in each class folder and the folders below it, but for hidden ones.

    Raises:
        DataError: if the folder is missing, or it or one of its class folders holds no image.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {str(folder)!r}; expected {folder.parent.name}/train, {folder.parent.name}/val and "
            "perhaps a test beside them, each with one folder of images for every class"
        )
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)))
    found = [(file, label) for label, name in enumerate(names) for file in _images_in(folder / name)]
    if not found:
        raise DataError(f"{str(folder)!r} holds no image in any class folder; known endings: {', '.join(_SUFFIXES)}")
    empty = sorted(set(range(len(names))) - {label for _, label in found})
    if empty:
        raise DataError(f"the class folder {str(folder / names[empty[0]])!r} holds no image; fill it or remove it")
    return Listing(names, tuple(file for file, _ in found), tuple(label for _, label in found))


def _images_in(folder: Path) -> list[Path]:
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]  # which os.walk then leaves out
        files += [Path(where) / name for name in names if not _is_hidden(name)]
    return sorted(file for file in files if file.suffix.lower() in _SUFFIXES)


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

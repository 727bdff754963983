"""Which WAV files of each class a folder holds, and which of them train, validate and test.

Laid out as Google's Speech Commands: ``PATH/yes/*.wav``, ``PATH/no/*.wav`` …, with ``validation_list.txt`` and
``testing_list.txt`` or without; or in folders ``train/``, ``val/`` and ``test/`` as image folders are.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from autoprune.errors import DataError
from autoprune.tasks.folder_listing import SOUNDS, Listing, check_classes, class_folders, list_classes, list_split
from autoprune.tasks.task import SPLITS

_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
_HASHED = 2**27 - 1  # Speech Commands' own number
_SHARES = {"val": 10.0, "test": 10.0}  # per cent


def list_sounds(root: Path) -> dict[str, Listing]:
    """Return the files of each split: by folders, by the lists, or else by the names' hashes.

    Folders whose name begins with ``_`` are no class, as Speech Commands' background noise.

    Raises:
        DataError: if there is no such folder, too few classes or files, or a class has nothing to train on.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder of sounds {str(root.absolute())!r}; expected one folder for every class")
    if (root / "train").is_dir() and (root / "val").is_dir():
        splits = [split for split in SPLITS if split != "test" or (root / split).is_dir()]
        found = {split: list_split(root / split, SOUNDS) for split in splits}
        check_classes(found, root)
        return found
    names = tuple(name for name in class_folders(root) if not name.startswith("_"))
    everything = list_classes(root, names, SOUNDS)
    if len(names) < 2:
        raise DataError(f"{str(root)!r} has one class folder only, {names[0]!r}; expected two or more")
    return _dealt(root, everything)


def _dealt(root: Path, everything: Listing) -> dict[str, Listing]:
    """Return every split's part of all files."""
    listed = {split: _listed(root / name) for split, name in _LISTS.items() if (root / name).is_file()}
    relative = [file.relative_to(root).as_posix() for file in everything.files]
    splits = [_split_by(listed, name) if listed else split_of(name) for name in relative]
    parts = {split: [index for index, each in enumerate(splits) if each == split] for split in SPLITS}
    found = {
        split: Listing(
            everything.class_names,
            tuple(everything.files[index] for index in part),
            tuple(everything.labels[index] for index in part),
        )
        for split, part in parts.items()
        if part
    }
    _check(root, found, listed)
    return found


def split_of(name: str) -> str:
    """Return the split of a file by its name: ten per cent each validate and test, for ever the same.

    What follows ``_nohash_`` is left out, so that all that one speaker said lies in one split.

    Source: Warden, "Speech Commands", 2018, arXiv:1804.03209, section 5.7 (``which_set``).

    >>> split_of("yes/0a7c2a8d_nohash_0.wav") == split_of("yes/0a7c2a8d_nohash_1.wav")
    True
    """
    speaker = re.sub(r"_nohash_.*$", "", name.rpartition("/")[2])
    digest = int(hashlib.sha1(speaker.encode()).hexdigest(), 16)
    share = digest % (_HASHED + 1) * (100.0 / _HASHED)
    if share < _SHARES["val"]:
        return "val"
    return "test" if share < _SHARES["val"] + _SHARES["test"] else "train"


def _split_by(listed: dict[str, set[str]], name: str) -> str:
    return next((split for split, names in listed.items() if name in names), "train")


def _listed(file: Path) -> set[str]:
    """Return the names in a list.

    Raises:
        DataError: if it is no text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{str(file)!r} cannot be read: {error}; expected a line CLASS/NAME.wav for each file"
        ) from error
    return {line.strip().replace("\\", "/").removeprefix("./") for line in lines if line.strip()}


def _check(root: Path, found: dict[str, Listing], listed: dict[str, set[str]]) -> None:
    """Raise unless there is something to validate on, and to train every class on.

    Raises:
        DataError: that says what is missing.
    """
    if "val" not in found:
        raise DataError(f"{str(root)!r} has nothing to validate on: {_why_not(found, listed)}")
    names = found["val"].class_names
    trained = set(found["train"].labels) if "train" in found else set()
    missing = [repr(name) for label, name in enumerate(names) if label not in trained]
    if missing:
        raise DataError(
            f"{str(root)!r} has nothing to train on of {', '.join(missing[:5])}: all files of it validate or test; add "
            "files, or remove the class"
        )


def _why_not(found: dict[str, Listing], listed: dict[str, set[str]]) -> str:
    """Return why no file validates, and what to do."""
    line = "with a line CLASS/NAME.wav for each file"
    if listed:
        lists = " and ".join(_LISTS[split] for split in listed)
        named = "name" if len(listed) > 1 else "names"
        return f"{lists} {named} no file of it that is to validate; name some in {_LISTS['val']}, {line}"
    count = sum(len(part.files) for part in found.values())
    return f"by their names' hashes none of its {count} files validates; add files, or a {_LISTS['val']} {line}"

"""Where studies and recipes lie: from the command line's STUDY to a folder and its values.

A recipe is the ``study.toml`` of a study that nobody has run here yet. The committed ones travel inside
the wheel, so that ``autoprune search cifar10-resnet20`` works in an empty folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from autoprune.errors import UnknownNameError, UsageError
from autoprune.study.spec import NAME_PATTERN
from autoprune.study.spec_toml import read_study_toml

STUDY_FILE = "study.toml"
DEFAULT_STUDY = "digits-resnet56"


def find_study(
    argument: str | None, root: Path = Path("studies"), *, allow_new: bool = False
) -> tuple[Path, Mapping[str, object]]:
    """Return the folder of a study and the values of its ``study.toml``.

    A bare name is a folder under ``root``, or else a packaged recipe, whose study will live under
    ``root``. Anything with a slash, and ``.``, is a path to a folder or to a ``study.toml``.
    Where the values have no ``name``, the folder's is put in. Nothing is created.

    Args:
        argument: a bare name, a path, or ``None`` for the main job.
        root: the folder that holds the studies.
        allow_new: whether a name that nothing answers to is a new study, with no values of its own.

    Raises:
        UnknownNameError: if there is no such study or recipe, and ``allow_new`` is false.
        UsageError: if the argument is empty or a file other than a ``study.toml``, or a new study's name has other
            characters than letters, digits, ``.``, ``_`` and ``-``.
        SpecError: if the ``study.toml`` cannot be read, or is named and missing.
    """
    folder = _folder(DEFAULT_STUDY if argument is None else argument, root)
    file = folder / STUDY_FILE if Path(argument or "").name == STUDY_FILE else written_for(folder, root)
    values: dict[str, object] = {}
    if file is not None:
        values = read_study_toml(file)
    elif not folder.is_dir():
        _check_new(folder, root, allow_new)
    return folder, {"name": _study_name(folder), **values}


def written_for(folder: Path, root: Path) -> Path | None:
    """Return the ``study.toml`` of a study: its own, or that of the packaged recipe of its name; ``None`` for none."""
    own = folder / STUDY_FILE
    return own if own.exists() else recipes().get(folder.name) if folder == root / folder.name else None


def recipes() -> dict[str, Path]:
    """Return the packaged recipes: name → its ``study.toml``, sorted by name.

    In a wheel they lie beside this module; in a checkout they are the committed studies.
    """
    here = Path(__file__).resolve().parents[1]
    packaged = here / "recipes"
    return local_studies(packaged if packaged.is_dir() else here.parent / "studies")


def local_studies(root: Path) -> dict[str, Path]:
    """Return the studies under ``root`` that have a ``study.toml``: name → that file, sorted by name."""
    return {file.parent.name: file for file in sorted(root.glob(f"*/{STUDY_FILE}"))}


def _folder(argument: str, root: Path) -> Path:
    """Return the folder that the argument names, whether it exists or not."""
    path = Path(argument)
    if not argument.strip():
        raise UsageError("the study's name is empty; give a name, a folder, or nothing for the main job")
    if path.name == STUDY_FILE:
        return path.parent
    if path.is_file() and len(path.parts) > 1:
        raise UsageError(f"{argument!r} is a file; expected a study's name, its folder, or its {STUDY_FILE}")
    is_name = len(path.parts) == 1 and argument == path.name and argument != ".."
    return root / argument if is_name else path


def _check_new(folder: Path, root: Path, allow_new: bool) -> None:
    """Raise unless a study may begin in a folder that does not exist yet."""
    if not allow_new:
        known = {**local_studies(root), **recipes()}
        raise UnknownNameError(
            "study", folder.name, known, f"A study is a folder under {str(root)!r}, or a path to one."
        )
    if folder.exists():
        raise UsageError(f"{str(folder)!r} is a file; expected a folder for the study")
    if not re.fullmatch(NAME_PATTERN, folder.name):
        raise UsageError(
            f"a new study cannot be called {folder.name!r}; use letters, digits, '.', '_' and '-', "
            f"and begin with none of '.' and '-'"
        )


def _study_name(folder: Path) -> str:
    """Return the folder's name with what a study's name may not have replaced by ``-``.

    >>> _study_name(Path("studies/my first study"))
    'my-first-study'
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip(".-")
    return plain or "study"

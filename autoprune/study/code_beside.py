"""Code that lies beside the ``study.toml`` that names it: its ``net.py:build`` is our ``studies/mine/net.py:build``.

So a folder with a ``study.toml`` and the user's file is whole: it runs wherever it lies, from whatever folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_NAMES_CODE: Mapping[str, tuple[str, ...]] = {
    "model": ("source",),
    "data": ("source",),
    "loop": ("finetune", "evaluate", "example"),
    "space": ("importances",),
    "logging": ("loggers",),
}


def with_code_beside(values: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Return the values of a ``study.toml`` with the place of every file of code that lies in its folder.

    Files that do not lie there are left as they are named, relative to the working directory.

    Args:
        values: nested as in a ``study.toml``.
        folder: that it lies in.
    """
    placed: dict[str, object] = dict(values)
    for section, keys in _NAMES_CODE.items():
        table = values.get(section)
        if isinstance(table, Mapping):
            placed[section] = {key: _placed(each, folder) if key in keys else each for key, each in table.items()}
    return placed


def _placed(value: object, folder: Path) -> object:
    if isinstance(value, list):
        return [_placed(each, folder) for each in value]
    where, colon, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not (colon and where.endswith(".py") and (folder / where).is_file()):
        return value
    path, here = (folder / where).absolute(), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{name}"

"""From a name to a thing: built-ins, installed plug-ins, and the user's own code.

A :class:`Registry` answers four kinds of names, tried in this order:

- ``l1``: a built-in, imported only when asked for;
- ``mine``: an entry point of the group ``autoprune.<kind>`` of any installed package;
- ``pkg.mod:attr``: an importable module's attribute;
- ``path/to/file.py:attr``: an attribute of a file, run as the user's own code.

Nothing is imported until it is looked up, so listing names costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.core.live_objects import LIVE, is_live, live_object
from autoprune.core.user_code import as_its_owner_runs_it, in_user_code
from autoprune.errors import UnknownNameError, UsageError


@dataclass(frozen=True)
class Registry:
    """One kind of thing, found by name.

    Attributes:
        kind: what is looked up, in words ("importance criterion"); used in messages.
        group: entry-point group for third parties ("autoprune.importances").
        builtins: name → ``"module:attribute"``.
        prefixes: what a name may begin with that is understood elsewhere, such as ``torchvision:``.
    """

    kind: str
    group: str
    builtins: Mapping[str, str] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return every name that needs no path: built-ins, then plug-ins, sorted within each."""
        plugins = {point.name for point in entry_points(group=self.group)} - set(self.builtins)
        return [*sorted(self.builtins), *sorted(plugins)]

    def is_code(self, name: str) -> bool:
        """Return whether a name stands for code by its place, ``module:attr`` or ``file.py:attr``; imports nothing.

        >>> registry = Registry("model", "autoprune.models", prefixes=("torchvision:",))
        >>> registry.is_code("net.py:build"), registry.is_code("torchvision:resnet18"), registry.is_code("resnet56")
        (True, False, False)
        """
        return ":" in name and not name.startswith((*self.prefixes, LIVE)) and name not in self.names()

    def check(self, name: str) -> None:
        """Raise if ``name`` cannot be a name of this registry; imports nothing.

        Raises:
            UnknownNameError: if it is neither known nor of the form ``module:attr`` or ``file.py:attr``.
        """
        if ":" not in name and name not in self.builtins and name not in self.names():
            raise UnknownNameError(self.kind, name, self.names(), _HINT)

    def get(self, name: str) -> Any:
        """Return what ``name`` stands for.

        Raises:
            UnknownNameError: if nothing answers to the name.
            UsageError: if the module, file or attribute cannot be loaded.
        """
        if is_live(name):
            return live_object(name, self.kind)
        if name in self.builtins:
            return load_object(self.builtins[name], self.kind)
        for point in entry_points(group=self.group):
            if point.name == name:
                return _load_plugin(point, self.kind)
        self.check(name)
        return load_object(name, self.kind)


_HINT = "Your own: 'package.module:attribute' or 'path/to/file.py:attribute'."


def load_object(reference: str, kind: str = "object") -> Any:
    """Return the attribute that ``"module:attr"`` or ``"file.py:attr"`` points to.

    Args:
        reference: where the object is; a file's path is relative to the working directory.
        kind: what it is meant to be, for the message.

    Raises:
        UsageError: if the reference is malformed, or the module, file or attribute is missing or
            fails while it is imported.
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute:
        raise UsageError(f"{kind} {reference!r} is not of the form 'package.module:attribute' or 'file.py:attribute'")
    is_file = where.endswith(".py")
    if is_file and not Path(where).is_file():
        raise UsageError(f"{kind} {reference!r}: there is no file {str(Path(where).absolute())!r}")
    try:
        with as_its_owner_runs_it(where), _importable(Path(where).resolve().parent if is_file else Path.cwd()):
            module = _import_file(Path(where)) if is_file else importlib.import_module(where)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UsageError(f"{kind} {reference!r}: importing {where!r} failed with {in_user_code(error)}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in vars(module) if not name.startswith("_")]
            raise UnknownNameError(f"attribute of {where!r}", attribute, public)
        found = getattr(found, part)
    return found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let code import what lies beside it before anything else of that name, as when it is run by itself.

    Afterwards the folder and the working directory come last, for what is imported late, in functions.
    """
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the code may have changed the list itself
            sys.path.remove(str(folder))
        sys.path.extend(where for where in (str(folder), str(Path.cwd())) if where not in sys.path)


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name derived from its path, once per process."""
    path = path.resolve()
    name = f"autoprune_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{str(path)!r} cannot be read as Python source")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution, so that dataclasses in the file can find it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_plugin(point: Any, kind: str) -> Any:
    try:
        with as_its_owner_runs_it(point.value):
            return point.load()
    except (Exception, SystemExit) as error:  # a third party's plug-in may raise anything
        raise UsageError(
            f"{kind} {point.name!r} comes from the plug-in {point.value!r}, which failed to load with "
            f"{in_user_code(error)}"
        ) from error

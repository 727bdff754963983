"""Functions that a network keeps, such as hooks, and that refer to the network itself.

A copy of a network has the very functions of the first instance. One that closes over that instance, or over a layer of
it, would go on running the first instance's layers: in the copy it is made anew around the copy's own. A function that
finds the network by a global name cannot be, and is refused.
"""

from __future__ import annotations

import copy
import dis
import functools
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

from autoprune.errors import ModelError

_COMPILED_FROM = "_torchdynamo_orig_callable"  # where torch.compile keeps the function that it was given


def rebind_functions(copied: nn.Module, memo: dict[int, Any]) -> None:
    """Make every function that a copy keeps, and that refers to the first instance, refer to the copy instead.

    Args:
        copied: by ``copy.deepcopy``; changed in place.
        memo: that was given to ``copy.deepcopy``: id of what was copied → the copy.

    Raises:
        ModelError: if a function refers to the first instance by a global name.
    """
    rebinder = _Rebinder(memo)
    for module in copied.modules():
        for name, value in list(vars(module).items()):
            if name not in ("_modules", "_parameters", "_buffers"):
                vars(module)[name] = rebinder.rebound(value)


class _Rebinder:
    """Rebinds what is found in an attribute; remembers functions, which may call one another."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self._memo, self._made = memo, dict[int, Any]()
        self._asked, self._seen = set[int](), set[int]()  # functions that are looked into, containers that were

    def rebound(self, value: Any) -> Any:
        """Return a value, or what takes its place; containers are changed in place."""
        if isinstance(value, dict | list):
            if id(value) in self._seen:
                return value
            self._seen.add(id(value))
        if isinstance(value, dict):
            changed = {key: new for key, one in value.items() if (new := self.rebound(one)) is not one}
            value.update(changed)
        elif isinstance(value, list):
            value[:] = [self.rebound(one) for one in value]
        elif type(value) is tuple:
            new = tuple(self.rebound(one) for one in value)
            return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
        elif isinstance(value, FunctionType | MethodType | weakref.ref):
            return self._referring(value)
        return value

    def _referring(self, value: Any) -> Any:
        """Return what refers to the copy where a value refers to the first instance."""
        if isinstance(value, FunctionType):
            self._check_globals(value)
            if _COMPILED_FROM in vars(value):
                return self._referring(vars(value)[_COMPILED_FROM])
            return self._function(value) if self._refers(value) else value
        if isinstance(value, MethodType):
            own = self._memo.get(id(value.__self__), value.__self__)
            function = self._referring(value.__func__)
            return value if own is value.__self__ and function is value.__func__ else MethodType(function, own)
        if isinstance(value, weakref.ref):
            own = self._memo.get(id(value()))
            return value if own is None else weakref.ref(own)
        if id(value) in self._memo:
            return self._memo[id(value)]
        return copy.deepcopy(value, self._memo) if self._refers(value) else value

    def _refers(self, value: Any) -> bool:
        """Return whether something leads to what was copied, by cells, defaults, bound objects or containers."""
        if id(value) in self._memo:
            return True
        if id(value) in self._asked:
            return False  # a function that calls itself
        self._asked.add(id(value))
        try:
            return any(self._refers(one) for one in _behind(value))
        finally:
            self._asked.discard(id(value))

    def _function(self, function: FunctionType) -> FunctionType:
        if id(function) in self._made:
            return self._made[id(function)]  # type: ignore[no-any-return]
        cells = tuple(CellType() for _ in function.__closure__ or ())
        new = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        self._made[id(function)] = new
        for cell, former in zip(cells, function.__closure__ or (), strict=True):
            for content in _content(former):
                cell.cell_contents = self._referring(content)
        new.__defaults__ = tuple(map(self._referring, function.__defaults__)) if function.__defaults__ else None
        keywords = function.__kwdefaults__
        new.__kwdefaults__ = {name: self._referring(one) for name, one in keywords.items()} if keywords else None
        vars(new).update(vars(function))
        new.__qualname__, new.__doc__ = function.__qualname__, function.__doc__
        return new

    def _check_globals(self, function: FunctionType) -> None:
        for step in dis.get_instructions(function.__code__) if self._is_own(function) else ():
            found = function.__globals__.get(step.argval) if step.opname == "LOAD_GLOBAL" else None
            if isinstance(found, nn.Module) and id(found) in self._memo:
                where = f"{Path(function.__code__.co_filename).name}:{function.__code__.co_firstlineno}"
                raise ModelError(
                    f"the network keeps the function {function.__name__!r} ({where}), which refers to the network by "
                    f"the global name {step.argval!r}: in a copy it would go on running the first one. Use the module "
                    f"that a hook is given, or make the function inside the one that builds the network"
                )

    @staticmethod
    def _is_own(function: FunctionType) -> bool:
        return not str(function.__module__).startswith("torch.")


def _content(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # it is empty
        return ()


def _behind(value: Any) -> Iterable[Any]:
    """Yield what a function, a bound method, a partial or a container holds."""
    if isinstance(value, FunctionType):
        yield from (one for cell in value.__closure__ or () for one in _content(cell))
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        if _COMPILED_FROM in vars(value):
            yield vars(value)[_COMPILED_FROM]
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value

"""Which formats a picked network can be exported to, besides its own: which were asked for, and which can be here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from autoprune.core.json_values import JsonObject
from autoprune.errors import UnknownNameError, UsageError

FILES = {"onnx": "model.onnx", "pt2": "model.pt2"}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Wanted:
    """The formats that a network is exported to.

    Attributes:
        formats: keys of :data:`FILES`.
        is_explicit: whether somebody asked for them by name, so that one that fails is an error.
        note: why there is none where there could be, or an empty string.
    """

    formats: tuple[str, ...] = ()
    is_explicit: bool = False
    note: str = ""

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"formats": list(self.formats), "is_explicit": self.is_explicit, "note": self.note}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Wanted:
        """Return what :meth:`to_json` wrote."""
        return cls(tuple(data["formats"]), data["is_explicit"], data["note"])


def wanted_formats(text: str) -> Wanted:
    """Return what ``auto``, ``none`` or ``onnx,pt2`` asks for; ``auto`` is ONNX, unless its packages are gone.

    Raises:
        UnknownNameError: if a format is not known.
        UsageError: if what ONNX needs is not installed and it was asked for.

    >>> wanted_formats("pt2, pt2")
    Wanted(formats=('pt2',), is_explicit=True, note='')
    >>> wanted_formats("none").formats
    ()
    """
    formats, missing = named_formats(text), missing_onnx()
    if text == "auto":
        note = (
            f"no model.onnx: not installed: {', '.join(missing)}; {get_onnx(missing)}, and do this again with --force"
        )
        return Wanted(note=note) if missing else Wanted(("onnx",))
    if "onnx" in formats and missing:
        raise UsageError(
            f"an export to ONNX was asked for, and not everything it needs is installed: {', '.join(missing)}; "
            f"{get_onnx(missing)}, or leave onnx out"
        )
    return Wanted(formats, is_explicit=True)


def named_formats(text: str) -> tuple[str, ...]:
    """Return the formats that a text names, none for ``auto`` and ``none``.

    Raises:
        UnknownNameError: if one is not known.
    """
    formats = () if text in ("auto", "none") else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in formats:
        if name not in FILES:
            raise UnknownNameError("export format", name, [*FILES, "auto", "none"], "Several are separated by commas.")
    return formats


def missing_onnx() -> list[str]:
    """Return the packages that ONNX needs and that are not installed, as where there are no wheels of them."""
    return [name for name in ONNX_PACKAGES if find_spec(name) is None]


def get_onnx(missing: Sequence[str]) -> str:
    """Return the command that installs what ONNX lacks.

    >>> get_onnx(["onnx", "onnxruntime"])
    'pip install onnx onnxruntime'
    """
    return f"pip install {' '.join(missing)}"

"""Which formats a picked network can be exported to, besides its own: which were asked for, and which can be here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from autoprune.core.builtin_names import EXPORTS
from autoprune.core.json_values import JsonObject
from autoprune.errors import UnknownNameError, UsageError

FILES = {"onnx": "model.onnx", "pt2": "model.pt2", "openvino": "model.xml"}
PLUG_INS = "exports"  # folder in which each plug-in has one of its name
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
GET_ONNX = "pip install 'autoprune[onnx]'"
GET_OPENVINO = "pip install 'autoprune[openvino]'"


@dataclass(frozen=True)
class Wanted:
    """The formats that a network is exported to.

    Attributes:
        formats: keys of :data:`FILES`, and names of plug-ins.
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
    """Return what ``auto``, ``none`` or ``onnx,pt2`` asks for; ``auto`` is ONNX where it is installed.

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
        note = f"no model.onnx: not installed: {', '.join(missing)}; {GET_ONNX}, and do this again with --force"
        return Wanted(note=note) if missing else Wanted(("onnx",))
    if "openvino" in formats and find_spec("openvino") is None:
        raise UsageError(
            f"an export to OpenVINO was asked for, and it is not installed; {GET_OPENVINO}, or leave openvino out"
        )
    if {"onnx", "openvino"} & set(formats) and missing:
        raise UsageError(
            f"an export to ONNX was asked for, and not everything it needs is installed: {', '.join(missing)}; "
            f"{GET_ONNX}, or leave onnx out"
        )
    return Wanted(formats, is_explicit=True)


def named_formats(text: str) -> tuple[str, ...]:
    """Return the formats that a text names, none for ``auto`` and ``none``.

    Raises:
        UnknownNameError: if one is not known.
    """
    formats = () if text in ("auto", "none") else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in formats:
        if name not in FILES and name not in (known := EXPORTS.names()):
            every = [*FILES, *known, "auto", "none"]
            raise UnknownNameError("export format", name, every, "Several are separated by commas.")
    return formats


def missing_onnx() -> list[str]:
    """Return the packages of the extra ``onnx`` that are not installed."""
    return [name for name in ONNX_PACKAGES if find_spec(name) is None]

"""Which formats a picked network can be exported to, besides its own: which were asked for, and which can be here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from autoprune.core.builtin_names import EXPORTS
from autoprune.core.json_values import JsonObject
from autoprune.errors import UnknownNameError, UsageError

INT8 = "onnx-int8"
FILES = {"onnx": "model.onnx", INT8: "model.int8.onnx", "pt2": "model.pt2", "openvino": "model.xml"}
PLUG_INS = "exports"  # folder in which each plug-in has one of its name
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
GET_OPENVINO = "pip install 'autoprune[openvino]'"


@dataclass(frozen=True)
class Int8Limit:
    """How much worse a network may be in int8 than in float32, on validation, in the metric that leads.

    Attributes:
        max_drop: at most this much worse than in float32: of a metric in %, a fraction, so that 0.01 is one point; of
            others a share of the score in float32.
        worst: the worst value that will do besides, of a network that keeps it in float32; ``None`` for any.
    """

    max_drop: float = 0.01
    worst: float | None = None


@dataclass(frozen=True)
class Wanted:
    """The formats that a network is exported to.

    Attributes:
        formats: keys of :data:`FILES`, and names of plug-ins.
        is_explicit: whether somebody asked for them by name, so that one that fails is an error.
        note: why there is none where there could be, or an empty string.
        int8: how much the network may lose in int8, where that is among the formats.
        qat: whether it is trained with the rounding of int8 besides, where that is.
    """

    formats: tuple[str, ...] = ()
    is_explicit: bool = False
    note: str = ""
    int8: Int8Limit = Int8Limit()
    qat: bool = False

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        limit = {"int8_limit": asdict(self.int8)} if INT8 in self.formats else {}
        trains = {"qat": True} if self.qat else {}
        return {"formats": list(self.formats), "is_explicit": self.is_explicit, "note": self.note, **limit, **trains}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Wanted:
        """Return what :meth:`to_json` wrote."""
        limit = Int8Limit(**data.get("int8_limit", {}))
        return cls(tuple(data["formats"]), data["is_explicit"], data["note"], limit, bool(data.get("qat")))


def wanted_formats(text: str, *, int8: bool = False, limit: Int8Limit = Int8Limit()) -> Wanted:  # frozen
    """Return what ``auto``, ``none`` or ``onnx,pt2`` asks for; ``auto`` is ONNX, unless its packages are gone.

    Args:
        text: names of formats, separated by commas, or ``auto`` or ``none``.
        int8: whether int8 is wanted besides.
        limit: how much the network may lose in int8.

    Raises:
        UnknownNameError: if a format is not known.
        UsageError: if what ONNX needs is not installed and it was asked for.

    >>> wanted_formats("pt2, pt2").formats
    ('pt2',)
    >>> wanted_formats("none").formats
    ()
    >>> wanted_formats("auto", int8=True).formats
    ('onnx', 'onnx-int8')
    """
    named, missing = named_formats(text), missing_onnx()
    if text == "auto" and not int8:
        note = (
            f"no model.onnx: not installed: {', '.join(missing)}; {get_onnx(missing)}, and do this again with --force"
        )
        return Wanted(note=note) if missing else Wanted(("onnx",))
    formats = tuple(dict.fromkeys([*(("onnx",) if text == "auto" else named), *([INT8] if int8 else [])]))
    if "openvino" in formats and find_spec("openvino") is None:
        raise UsageError(
            f"an export to OpenVINO was asked for, and it is not installed; {GET_OPENVINO}, or leave openvino out"
        )
    if missing and any(name.startswith(("onnx", "openvino")) for name in formats):
        raise UsageError(
            f"an export to ONNX was asked for, and not everything it needs is installed: {', '.join(missing)}; "
            f"{get_onnx(missing)}, or leave onnx out"
        )
    return Wanted(formats, is_explicit=True, int8=limit)


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
    """Return the packages that ONNX needs and that are not installed, as where there are no wheels of them."""
    return [name for name in ONNX_PACKAGES if find_spec(name) is None]


def get_onnx(missing: Sequence[str]) -> str:
    """Return the command that installs what ONNX lacks.

    >>> get_onnx(["onnx", "onnxruntime"])
    'pip install onnx onnxruntime'
    """
    return f"pip install {' '.join(missing)}"

"""What an ONNX file says of itself, once ONNX's own checker has found nothing wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OnnxFacts:
    """What a reader of an ONNX file needs to know.

    Attributes:
        opset: version of ONNX's standard operators.
        operators: how many operations the graph has.
        dynamic_batch: whether the first dimension of every input has a name instead of a size.
    """

    opset: int
    operators: int
    dynamic_batch: bool


def checked_onnx(content: bytes) -> OnnxFacts:
    """Return the facts of an ONNX file that is sound and whole.

    Args:
        content: of the file.

    Raises:
        onnx.checker.ValidationError: if it breaks a rule of the format.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    return OnnxFacts(
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        operators=len(model.graph.node),
        dynamic_batch=all(_first_name(given) for given in model.graph.input),
    )


def _first_name(given: Any) -> str:
    """Return the name of an input's first dimension, empty if it has none."""
    dimensions = given.type.tensor_type.shape.dim
    return str(dimensions[0].dim_param) if dimensions else ""

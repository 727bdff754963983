"""The formats of numbers in which a study times networks and counts their sizes, and what they are called in words."""

from __future__ import annotations

from collections.abc import Mapping

NUMBERS: Mapping[str, str] = {"fp32": "float32", "int8": "int8"}
"""Format, as settings and files name it → in words."""

SIZES: Mapping[str, str] = {
    "fp32": "stored weights in float32",
    "int8": "the file in int8 (model.int8.onnx), with its operations and names",
}
"""Format → what a size in it is the size of, in words."""

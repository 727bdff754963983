"""The first half of static quantisation: a network ready to be quantised, and how large its tensors become.

ONNX Runtime prepares the file (shapes, constants, fused batch norm) and runs it on training examples, noting the
smallest and the largest number of every tensor. It is the expensive half, and the same whichever layers become int8, so
it is done once; ``int8_quantise.py`` is the other one. Both run in a process of their own.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autoprune.core.json_values import parse_json
from autoprune.errors import ExportError
from autoprune.export.own_process import ForeignCodeError, in_own_process

Feed: TypeAlias = Mapping[str, NDArray[Any]]
"""Name of an input → one batch of it, as ONNX Runtime takes it."""

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # that have the weights and most of the arithmetic
_LONGEST_REASON = 300


@dataclass(frozen=True)
class QuantisableLayer:
    """A layer that can be int8 or stay in float32.

    Attributes:
        node: name of its operation in the file.
        name: path of the module that its weights come from, as far as the file tells; else the same.
    """

    node: str
    name: str


@dataclass(frozen=True)
class CalibratedModel:
    """A network in float32 with the range of each of its tensors.

    Attributes:
        model: content of an ONNX file, prepared.
        ranges: tensor → smallest and largest number seen.
        layers: in the order of computation.
    """

    model: bytes = field(repr=False)
    ranges: Mapping[str, tuple[float, float]]
    layers: tuple[QuantisableLayer, ...]

    def to_bytes(self) -> bytes:
        """Return it as bytes, to hand it from one process to another."""
        told = {"ranges": self.ranges, "layers": [[one.node, one.name] for one in self.layers]}
        return json.dumps(told).encode() + b"\n" + self.model

    @classmethod
    def from_bytes(cls, content: bytes) -> CalibratedModel:
        """Return what :meth:`to_bytes` made."""
        head, _, model = content.partition(b"\n")
        told = parse_json(head.decode())
        ranges = {name: (float(low), float(high)) for name, (low, high) in told["ranges"].items()}
        return cls(model, ranges, tuple(QuantisableLayer(*each) for each in told["layers"]))


def calibrated(model: bytes, feeds: Sequence[Feed]) -> CalibratedModel:
    """Return a network ready to be quantised.

    Args:
        model: content of an ONNX file in float32.
        feeds: batches of training examples as they are, at least one.

    Raises:
        ExportError: if ONNX Runtime cannot prepare or run the file, or a tensor becomes NaN or infinite.
    """
    try:
        return CalibratedModel.from_bytes(in_own_process(lambda: _calibrated(model, feeds).to_bytes(), described))
    except ForeignCodeError as error:
        raise ExportError(f"the network cannot be calibrated for int8: {error}; model.onnx does without") from error


def _calibrated(model: bytes, feeds: Sequence[Feed]) -> CalibratedModel:
    """Return the calibrated network; may raise anything, or crash."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="autoprune.int8.") as folder:
        path = Path(folder, "prepared.onnx")
        network = prepared(model, path)
        onnx.save(network, path)
        ranges = _ranges(path, feeds, Path(folder, "augmented.onnx"))
    return CalibratedModel(network.SerializeToString(), ranges, tuple(_layers(network)))


def prepared(model: bytes, path: Path) -> Any:
    """Return a network with shapes inferred, constants folded and batch norm fused, every operation with a name."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    given = onnx.load_model_from_string(model)
    try:
        quant_pre_process(given, path)
    except Exception:  # symbolic shapes fail on some operations, and help with attention only
        quant_pre_process(given, path, skip_symbolic_shape=True)
    network = onnx.load(path)
    for place, node in enumerate(network.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"
    return network


def _ranges(path: Path, feeds: Sequence[Feed], augmented: Path) -> dict[str, tuple[float, float]]:
    """Return the range of every tensor that can be quantised.

    Raises:
        ValueError: if one is not finite.
    """
    from onnxruntime.quantization import create_calibrator

    calibrator = create_calibrator(path, quantisable(), augmented_model_path=str(augmented))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NaN, which is said below
        calibrator.collect_data(_Reader(feeds))
        data = calibrator.compute_data()
    found = {name: (float(np.min(each.lowest)), float(np.max(each.highest))) for name, each in data.items()}
    broken = [name for name, both in found.items() if not all(map(math.isfinite, both))]
    if broken:
        raise ValueError(f"{broken[0]} is NaN or infinite on training examples")
    return found


def quantisable() -> list[str]:
    """Return the operations that ONNX Runtime can quantise."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry})


class _Reader:
    """Batches in the form in which ONNX Runtime's calibration asks for them."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feed | None:
        """Return the next batch, ``None`` after the last."""
        return next(self._left, None)


def _layers(network: Any) -> Iterator[QuantisableLayer]:
    """Yield the layers that have weights of their own, in the order of computation."""
    stored = {tensor.name for tensor in network.graph.initializer}
    for node in network.graph.node:
        weights = [name for name in node.input[:2] if name in stored]
        if node.op_type in LAYERS and weights:
            yield QuantisableLayer(node.name, _path_of(weights[0]) or node.name)


def _path_of(weight: str) -> str:
    """Return the path of the module that a tensor comes from; empty if its name does not tell.

    >>> _path_of("layer1.0.conv1.weight"), _path_of("val_7")
    ('layer1.0.conv1', '')
    """
    found = re.search(r"([\w.]+)\.\w*weight", weight)
    return found.group(1) if found else ""


def described(error: Exception) -> str:
    """Return in a line what foreign code raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:_LONGEST_REASON]}".rstrip(".: ")

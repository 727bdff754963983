"""The second half of static quantisation: int8 in the place of float32, in all layers or but for some.

Weights are signed, each output channel with a scale of its own; activations are unsigned. Every quantised tensor is
written as a pair QuantizeLinear and DequantizeLinear, which runtimes read that know nothing of ONNX Runtime. This is
what ``onnxruntime.quantization.quantize_static`` does after its own calibration; here the ranges are known already.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.core.json_values import parse_json
from autoprune.errors import ExportError
from autoprune.export.int8_calibration import CalibratedModel, Feed, described, quantisable
from autoprune.export.own_process import ForeignCodeError, in_own_process


def quantised(calibrated: CalibratedModel, reduce_range: bool, in_float: Sequence[str], feed: Feed) -> bytes:
    """Return a network in int8 as the content of an ONNX file, which has run once in a process of its own.

    Args:
        calibrated: the network in float32.
        reduce_range: whether weights have seven bits.
        in_float: operations that stay in float32, by name.
        feed: a batch to run it on.

    Raises:
        ExportError: if it cannot be quantised, or does not run.
    """

    def work() -> bytes:
        content = quantised_here(calibrated, reduce_range, in_float=in_float)
        _run(content, feed)
        return content

    try:
        return in_own_process(work, described)
    except ForeignCodeError as error:
        raise ExportError(f"the network cannot be quantised: {error}; model.onnx does without") from error


def sensitivities(calibrated: CalibratedModel, reduce_range: bool, feed: Feed) -> dict[str, float]:
    """Return how much each layer alone in int8 changes the answers, all others in float32.

    Args:
        calibrated: the network in float32.
        reduce_range: whether weights have seven bits.
        feed: a batch of training examples.

    Returns:
        operation → mean squared difference of the answers, as a share of their mean square; infinite if one is NaN.

    Raises:
        ExportError: if a layer cannot be quantised, or does not run.
    """

    def work() -> bytes:
        expected = _run(calibrated.model, feed)
        found = {
            layer.node: _distance(_run(quantised_here(calibrated, reduce_range, only=[layer.node]), feed), expected)
            for layer in calibrated.layers
        }
        return json.dumps({node: str(each) for node, each in found.items()}).encode()

    try:
        told = parse_json(in_own_process(work, described).decode())
    except ForeignCodeError as error:
        raise ExportError(f"the layers cannot be quantised one by one: {error}; model.onnx does without") from error
    return {node: float(text) for node, text in told.items()}


def quantised_here(
    calibrated: CalibratedModel, reduce_range: bool, *, in_float: Sequence[str] = (), only: Sequence[str] = ()
) -> bytes:
    """Return a network in int8, made in this process; may raise anything, or crash.

    Args:
        calibrated: the network in float32.
        reduce_range: whether weights have seven bits.
        in_float: operations that stay in float32, by name.
        only: the only operations that do not; empty for all others.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    number = np.float32
    ranges = {name: (number(low), number(high)) for name, (low, high) in calibrated.ranges.items()}
    quantizer = QDQQuantizer(
        onnx.load_model_from_string(calibrated.model),
        True,  # a scale for each channel
        reduce_range,
        QuantType.QInt8,  # weights
        QuantType.QUInt8,  # activations
        TensorsData(CalibrationMethod.MinMax, ranges),
        list(only),
        list(in_float),
        quantisable(),
        {},
    )
    quantizer.quantize_model()
    with tempfile.TemporaryDirectory(prefix="autoprune.int8.") as folder:
        path = Path(folder, "quantised.onnx")
        quantizer.model.save_model_to_file(str(path))
        return path.read_bytes()


def _run(content: bytes, feed: Feed) -> list[NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [np.asarray(answer) for answer in session.run(None, dict(feed))]


def _distance(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """Return how far answers are apart: the worst tensor's squared difference as a share of its square."""
    pairs = [(one.astype(float), other.astype(float)) for one, other in zip(found, expected, strict=True)]
    shares = [float(np.mean((one - other) ** 2) / max(float(np.mean(other**2)), 1e-30)) for one, other in pairs]
    worst = max(shares, default=0.0)
    return worst if worst == worst else float("inf")

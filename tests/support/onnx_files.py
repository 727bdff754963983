"""ONNX files of a matrix product, made without PyTorch in a millisecond."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.export.timing_command import TimingRequest


def product(width: int) -> bytes:
    """Return the file of a network that multiplies ``input`` of shape (1, width) by a matrix."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((width, width), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("input", "output")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])], "g", ends[:1], ends[1:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def request(**changes: Any) -> TimingRequest:
    """Return a request to time two such networks of one width."""
    given: dict[str, Any] = {
        "dense": product(8),
        "pruned": product(8) + b"",
        "feed": {"input": np.zeros((1, 8), np.float32)},
        "blocks": 5,
        "calls": 2,
        "threads": 1,
    }
    return TimingRequest(**{**given, **changes})

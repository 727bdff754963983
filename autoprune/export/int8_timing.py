"""A network in int8 as far as its latency goes: quantised within a second, and of no use but to be timed.

How long int8 takes follows from the operations and their shapes, not from the numbers. So the ranges of activations
need not be found on data: every tensor is taken to lie between 0 and 1, and what the file answers means nothing. What
``pick`` ships is calibrated (``int8.py``) and made of the same operations.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from autoprune.errors import ExportError
from autoprune.export.cpu_flags import reduces_range
from autoprune.export.int8_calibration import CalibratedModel, described, prepared
from autoprune.export.int8_quantise import quantised_here
from autoprune.export.own_process import ForeignCodeError, in_own_process

_RANGE = (0.0, 1.0)


def int8_stand_in(content: bytes) -> bytes:
    """Return an ONNX file that takes as long as a network in int8, and answers nothing of use.

    Args:
        content: of the network's file in float32.

    Raises:
        ExportError: if it cannot be quantised.
    """
    try:
        return in_own_process(lambda: _stand_in(content), described)
    except ForeignCodeError as error:
        raise ExportError(
            f"the network cannot be quantised: {error}; search with latency.format = fp32, which times it in float32"
        ) from error


def _stand_in(content: bytes) -> bytes:
    """Return the file; may raise anything, or crash."""
    with tempfile.TemporaryDirectory(prefix="autoprune.int8.") as folder:
        network = prepared(content, Path(folder, "prepared.onnx"))
    names = {name for node in network.graph.node for name in (*node.input, *node.output) if name}
    model = CalibratedModel(network.SerializeToString(), dict.fromkeys(names, _RANGE), ())
    return quantised_here(model, reduces_range())

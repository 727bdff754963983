"""OpenVINO on the CPU: its own format from our ONNX file, and running either.

Needs the extra ``openvino``, which is loaded late and needs no PyTorch. The conversion reads ONNX, so that what cannot
be exported to ONNX has no OpenVINO file either.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.core.export_formats import GET_OPENVINO
from autoprune.errors import ExportError
from autoprune.export.foreign_program import run_program
from autoprune.export.onnx import named_batch

XML, BIN = "model.xml", "model.bin"
_LONGEST_REASON, _SECONDS = 300, 1800.0
# in a process of its own, which has not loaded PyTorch: foreign code may crash
_CONVERT = """
import sys, openvino
model = openvino.Core().read_model(sys.stdin.buffer.read())
openvino.save_model(model, sys.argv[1] + "/model.xml", compress_to_fp16=False)
"""


def is_missing() -> bool:
    """Return whether OpenVINO is not installed; nothing is imported."""
    return find_spec("openvino") is None


def openvino_files(model: bytes) -> dict[str, bytes]:
    """Return a network in OpenVINO's format, in float32: name → content of ``model.xml`` and ``model.bin``.

    Args:
        model: content of an ONNX file.

    Raises:
        ExportError: if OpenVINO is missing, or does not take the file.
    """
    if is_missing():
        raise ExportError(f"OpenVINO is not installed here; {GET_OPENVINO}")
    with tempfile.TemporaryDirectory() as folder:
        end = run_program([sys.executable, "-c", _CONVERT, folder], model, _SECONDS)
        if end.is_late:
            raise ExportError(f"OpenVINO did not convert the network within {_SECONDS:g} s; its ONNX file does without")
        if end.code:
            ended = f"it crashed (signal {-end.code})" if end.code < 0 else end.complaint[:_LONGEST_REASON]
            raise ExportError(f"OpenVINO does not take the network: {ended}; its ONNX file does without")
        return {name: (Path(folder) / name).read_bytes() for name in (XML, BIN)}


class OpenVinoSession:
    """A network that runs in OpenVINO on the CPU, in float32, one request at a time.

    Args:
        model: content of an ONNX file, or of ``model.xml``.
        weights: content of ``model.bin``; ``None`` with an ONNX file.
        threads: CPU threads, at least 1.

    Raises:
        ExportError: if OpenVINO is missing, or does not take the files.
    """

    def __init__(self, model: bytes, weights: bytes | None = None, threads: int = 1) -> None:
        openvino = _needed()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # or some processors compute in bf16
        }
        try:
            core = openvino.Core()
            read = core.read_model(model) if weights is None else core.read_model(model, weights)
            self._inputs = [one.any_name for one in read.inputs]
            self._request: Any = core.compile_model(read, "CPU", settings).create_infer_request()
        except Exception as error:  # OpenVINO's own
            raise ExportError(f"OpenVINO does not take the file: {_reason(error)}; export it again") from error

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        """Return the answers to a batch, on the CPU: a tensor, or several in the order of the file.

        Args:
            args: a batch as the exported network took it.
            kwargs: what it took by name.

        Raises:
            ExportError: if OpenVINO cannot run the file on them.
        """
        batch = named_batch(self._inputs, args, kwargs)
        try:
            found = self._request.infer(batch, share_inputs=True)
        except Exception as error:  # OpenVINO's own
            shapes = ", ".join(str(array.shape) for array in batch.values())
            raise ExportError(
                f"OpenVINO cannot run the file on inputs of shape {shapes}: {_reason(error)}; give what the exported "
                f"network takes"
            ) from error
        answers = tuple(torch.as_tensor(found[place]).clone() for place in range(len(found)))
        return answers[0] if len(answers) == 1 else answers


def _needed() -> Any:
    if is_missing():
        raise ExportError(f"OpenVINO is not installed here; {GET_OPENVINO}")
    import openvino

    return openvino


def _reason(error: BaseException) -> str:
    """Return the last line that says something: the first ones name places in OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:_LONGEST_REASON].rstrip(".")

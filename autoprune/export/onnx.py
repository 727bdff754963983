"""Converting a network to ONNX, and running such a file in ONNX Runtime on the CPU.

Needs the extra ``onnx`` (the packages ``onnx``, ``onnxscript`` and ``onnxruntime``), which is loaded late. The
conversion is PyTorch's own exporter, in a process of its own because it may crash; that both answer alike is for the
caller to check, on inputs that matter.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export.own_process import ForeignCodeError, in_own_process
from autoprune.models.copying.copy_network import copy_network

CONVERTER = ("onnx", "onnxscript")
RUNTIME = ("onnxruntime",)
INPUT, OUTPUT, BATCH = "input", "output", "batch"
_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
_LONGEST_REASON = 300


def missing_packages(wanted: tuple[str, ...] = (*CONVERTER, *RUNTIME)) -> tuple[str, ...]:
    """Return which of the packages of the extra ``onnx`` are not installed; nothing is imported."""
    return tuple(name for name in wanted if find_spec(name) is None)


def onnx_bytes(network: nn.Module, example: Tensor) -> bytes:
    """Return a network as the bytes of an ONNX file: one input, one output, any number of examples at once.

    It is converted in float32 on the CPU, in eval mode, from a copy. Nothing is printed.

    Args:
        network: takes one tensor and returns one; not touched.
        example: input of shape ``(N, *input_shape)``; only its shape and type matter.

    Raises:
        ExportError: if packages are missing, or with the exporter's own reason if the network cannot be converted.
    """
    return as_bytes(onnx_model(network, example))


def onnx_model(network: nn.Module, example: Tensor, *, optimize: bool = True) -> Any:
    """Return a network as an ``onnx.ModelProto``, with the exporter's notes on every node.

    Args:
        network: as for :func:`onnx_bytes`.
        example: as for :func:`onnx_bytes`.
        optimize: whether constants are folded and operators fused; ONNX Runtime does so itself too. Without, every
            tensor has the name that it has in the network.

    Raises:
        ExportError: as :func:`onnx_bytes` does.
    """
    _need(CONVERTER)
    import onnx
    import onnxscript  # noqa: F401  # here, so that children need not load it anew

    twin: nn.Module = copy_network(network).cpu().eval()
    twin.to(memory_format=torch.contiguous_format)
    inputs = torch.zeros(2, *example.shape[1:], dtype=example.dtype)  # of one, N would be taken as the number 1
    try:
        content = in_own_process(lambda: _converted(twin, inputs, optimize), _described)
    except ForeignCodeError as error:
        raise ExportError(
            f"the network cannot be converted to ONNX: {error}; its other files and the latency runtime torch do "
            f"without"
        ) from error
    model = onnx.load_from_string(content)
    check_ends(model)
    return model


def _converted(network: nn.Module, inputs: Tensor, optimize: bool) -> bytes:
    """Return what the exporter makes of a network, with its notes; may raise anything, or crash."""
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            network,
            (inputs,),
            dynamo=True,
            verbose=False,
            optimize=optimize,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: BATCH},),
        )
        return bytes(program.model_proto.SerializeToString())  # type: ignore[union-attr]


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {_reason(error)}"


def optimized(model: Any) -> Any:
    """Return a model with constants folded and operators fused, by the optimizer that the exporter uses.

    Args:
        model: an ``onnx.ModelProto``.

    Raises:
        ExportError: if the optimizer does not take it.
    """
    from onnxscript import optimizer

    try:
        with _quiet():
            return optimizer.optimize(model)
    except Exception as error:  # of many kinds
        raise ExportError(
            f"the network's ONNX file cannot be optimized: {type(error).__name__}: {_reason(error)}; the latency "
            f"runtime torch does without"
        ) from error


def check_ends(model: Any) -> None:
    """Raise unless a model takes any number of examples and answers one tensor.

    Raises:
        ExportError: saying which.
    """
    graph = model.graph
    first = graph.input[0].type.tensor_type.shape.dim[0]
    if not first.dim_param:
        raise ExportError(
            f"the network converts to ONNX for {first.dim_value} examples at once only, because its code takes their "
            f"number for a constant; write it with x.shape[0] or -1 instead, or use the latency runtime torch"
        )
    if len(graph.output) != 1:
        raise ExportError(f"the network answers {len(graph.output)} tensors; expected one")


def as_bytes(model: Any) -> bytes:
    """Return a model's bytes, without the exporter's notes, which hold paths of this machine; they are taken out of it.

    Raises:
        ExportError: if it is larger than the two gigabytes that a file can have.
    """
    for part in (model.graph, *model.functions):
        for noted in (*part.node, *part.value_info):
            del noted.metadata_props[:]
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own
        raise ExportError(f"the network does not fit into an ONNX file: {_reason(error)}") from error


class OnnxSession:
    """An ONNX file that runs on the CPU: operators one after another, each on some threads.

    Args:
        model: the bytes of a file with one input and one output, such as :func:`onnx_bytes` returns.
        threads: CPU threads within an operator, at least 1. They do not wait busily between calls.

    Raises:
        ExportError: if onnxruntime is missing, or does not take the file.
    """

    def __init__(self, model: bytes, threads: int = 1) -> None:
        _need(RUNTIME)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # not errors, which are raised
        options.add_session_config_entry("session.force_spinning_stop", "1")  # or it would slow down what runs next
        try:
            self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, which have no common parent
            raise ExportError(f"ONNX Runtime does not take the file: {_reason(error)}; export it again") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the answers to a batch, on the CPU.

        Args:
            inputs: shape ``(N, *input_shape)``, as the exported network took it.

        Raises:
            ExportError: if ONNX Runtime cannot run the file on them.
        """
        batch = inputs.detach().cpu().contiguous().numpy()
        try:
            answers = self._session.run(None, {self._input: batch})
        except Exception as error:  # onnxruntime's own, which have no common parent
            raise ExportError(
                f"ONNX Runtime cannot run the file on inputs of shape {tuple(inputs.shape)}: {_reason(error)}; give "
                f"what the exported network takes"
            ) from error
        return torch.from_numpy(answers[0])


def _need(packages: tuple[str, ...]) -> None:
    missing = missing_packages(packages)
    if missing:
        raise ExportError(f"ONNX needs {' and '.join(missing)}, not installed here; pip install 'autoprune[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's warnings and log lines; its errors are raised."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the beginning of what began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[:3]) or type(error).__name__)[:_LONGEST_REASON].rstrip(".")
